"""QEMU's monitor protocol (QMP, qemu/docs/interop/qmp-spec.txt): one command at a time, descriptors by SCM_RIGHTS.

The other end runs a guest: what it says is bounded, and checked before it is used.
"""

import array
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from appliance.errors import HypervisorError

_LINE = 1 << 20


class Monitor:
    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._events: list[tuple[str, str]] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str) -> AsyncIterator["Monitor"]:
        """Connect and greet. HypervisorError when nobody is there or it ends."""
        connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(connection):
            try:
                await connection.connect(path)
            except OSError as error:
                raise HypervisorError(f"QEMU's monitor cannot be reached: {error}") from error
            monitor = cls(connection)
            await monitor._message()
            await monitor.execute("qmp_capabilities")
            yield monitor

    async def _message(self) -> dict[str, Any]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > _LINE:
                raise HypervisorError("QEMU's monitor sends a line without end")
            try:
                data = await self._socket.recv(65536)
            except OSError as error:
                raise HypervisorError(f"QEMU's monitor broke off: {error}") from error
            if not data:
                raise HypervisorError("QEMU has ended")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise HypervisorError("QEMU's monitor sends no JSON") from error
        if not isinstance(message, dict):
            raise HypervisorError("QEMU's monitor sends no object")
        return message

    async def execute(self, command: str, arguments: dict[str, object] | None = None, *, fd: int = -1) -> Any:
        """What the command returns; `fd` is passed along. HypervisorError with QEMU's words when it refuses."""
        data = json.dumps({"execute": command, "arguments": arguments or {}}).encode() + b"\n"
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        try:
            sent = await self._socket.sendmsg([data], passed)
            while sent < len(data):
                sent += await self._socket.send(data[sent:])
        except OSError as error:
            raise HypervisorError(f"QEMU's monitor broke off: {error}") from error
        while True:
            message = await self._message()
            if "event" in message:
                self._keep(message)
            elif "error" in message:
                raise HypervisorError(f"{command}: {str(message['error'])[:500]}")
            else:
                return message.get("return")

    async def ignore_shared_memory(self, ignore: bool = True) -> None:
        """Save and restore only the devices' state: the memory is in its file."""
        capability = {"capability": "x-ignore-shared", "state": ignore}
        await self.execute("migrate-set-capabilities", {"capabilities": [capability]})

    async def save(self, state: int, seconds: float) -> None:
        """Write the machine's whole state to the descriptor; the machine has been stopped. HypervisorError when it cannot."""
        # What QEMU keeps to for the sake of a network would make a disk wait.
        await self.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        await self.execute("getfd", {"fdname": "state"}, fd=state)
        await self.execute("migrate", {"uri": "fd:state"})
        await self._wait_migration("save", seconds)

    async def load(self, state: int, seconds: float) -> None:
        """Take a whole state from the descriptor; the machine then stands still."""
        await self.execute("getfd", {"fdname": "state"}, fd=state)
        await self.execute("migrate-incoming", {"uri": "fd:state"})
        await self._wait_migration("restore", seconds)

    async def _wait_migration(self, what: str, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while True:
                found = await self.execute("query-migrate")
                match found.get("status"):
                    case "completed":
                        return
                    case "failed" | "cancelled":
                        raise HypervisorError(f"QEMU could not {what} it: {found.get('error-desc', found['status'])}")
                await trio.sleep(0.005)
        raise HypervisorError(f"QEMU did not {what} it in {seconds:.0f} s")

    async def let_go_on(self) -> bool:
        """End what keeps the machine from running; False when nothing does. HypervisorError when it has not begun to run yet."""
        status = await self.execute("query-status")
        if status.get("running"):
            return False
        if status.get("status") in ("inmigrate", "prelaunch"):
            raise HypervisorError("it has not begun to run")
        await self.execute("migrate_cancel")
        for _ in range(200):
            if (await self.execute("query-migrate")).get("status") not in ("active", "setup", "device", "cancelling"):
                break
            await trio.sleep(0.01)
        await self.execute("cont")
        return True

    def _keep(self, event: dict[str, Any]) -> None:
        data = event.get("data")
        device = str(data.get("device", "")) if isinstance(data, dict) else ""
        self._events.append((str(event["event"])[:64], device[:64]))
        del self._events[:-64]

    async def wait_event(self, name: str, device: str = "") -> None:
        """Return when the event (of that device) comes, or has come since it was last waited for."""
        while (name, device) not in self._events:
            message = await self._message()
            if "event" in message:
                self._keep(message)
        self._events.remove((name, device))
