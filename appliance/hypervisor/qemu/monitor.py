"""A connection to QEMU's monitor: one command at a time, file descriptors by SCM_RIGHTS."""

import array
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.qemu.qmp import (
    LONGEST_LINE,
    Event,
    Migration,
    Refused,
    Returned,
    RunState,
    command_line,
    parse_untrusted,
)

T = TypeVar("T")

_MOST_EVENTS = 64
# QEMU answers at once, unless it hangs. `stop` waits for the disks.
_ANSWER_SECONDS = 60.0


class Monitor:
    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._socket = connection
        self._buffer = bytearray()
        self._events: list[Event] = []

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str) -> AsyncIterator["Monitor"]:
        """Connect and negotiate. HypervisorError when QEMU does not listen, does not answer, or ends."""
        connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.closing(connection):
            try:
                await connection.connect(path)
            except OSError as error:
                raise HypervisorError(f"QEMU's monitor cannot be reached: {error}") from error
            monitor = cls(connection)
            # The greeting, which is not needed.
            with _bound("to the connection"):
                await monitor._message()
            await monitor.execute("qmp_capabilities")
            yield monitor

    async def _message(self) -> Event | Refused | Returned:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > LONGEST_LINE:
                raise HypervisorError("QEMU's monitor sends a line that is too long")
            try:
                data = await self._socket.recv(65536)
            except OSError as error:
                raise HypervisorError(f"the connection to QEMU's monitor broke: {error}") from error
            if not data:
                raise HypervisorError("QEMU has ended")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return parse_untrusted(line)

    async def execute(self, command: str, arguments: dict[str, object] | None = None, *, fd: int = -1) -> object:
        """Return what the command returns. `fd` is sent along.

        HypervisorError with QEMU's words when QEMU refuses, or when QEMU has not answered after a minute.
        """
        with _bound(command):
            return await self._execute(command, arguments, fd)

    async def _execute(self, command: str, arguments: dict[str, object] | None, fd: int) -> object:
        data = command_line(command, arguments or {})
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd >= 0 else []
        try:
            sent = await self._socket.sendmsg([data], passed)
            while sent < len(data):
                sent += await self._socket.send(data[sent:])
        except OSError as error:
            raise HypervisorError(f"the connection to QEMU's monitor broke: {error}") from error
        while True:
            match await self._message():
                case Event() as event:
                    self._record(event)
                case Refused(text):
                    raise HypervisorError(f"{command}: {text}")
                case Returned(value):
                    return value

    def _record(self, event: Event) -> None:
        self._events.append(event)
        del self._events[:-_MOST_EVENTS]

    async def wait_event(self, name: str, device: str = "") -> None:
        """Return when the event (of that device) comes, or has come since the last wait for it."""
        event = Event(name, device)
        while event not in self._events:
            message = await self._message()
            if isinstance(message, Event):
                self._record(message)
        self._events.remove(event)

    # -- state and migration --------------------------------------------------------------------------------------

    async def ignore_shared_memory(self, ignore: bool = True) -> None:
        """Save and restore only the state of devices: the memory is in its file."""
        capability = {"capability": "x-ignore-shared", "state": ignore}
        await self.execute("migrate-set-capabilities", {"capabilities": [capability]})

    async def save(self, state: int, seconds: float) -> None:
        """Write the machine's state to the descriptor `state`. HypervisorError when QEMU cannot."""
        # QEMU limits the bandwidth of a migration for the sake of networks; a file needs no limit.
        await self.execute("migrate-set-parameters", {"max-bandwidth": 1 << 40})
        await self.execute("getfd", {"fdname": "state"}, fd=state)
        await self.execute("migrate", {"uri": "fd:state"})
        await self._wait_migration("save", seconds)

    async def load(self, state: int, seconds: float) -> None:
        """Read the machine's state from the descriptor `state`. The machine is paused afterwards."""
        await self.execute("getfd", {"fdname": "state"}, fd=state)
        await self.execute("migrate-incoming", {"uri": "fd:state"})
        await self._wait_migration("restore", seconds)

    async def _migration(self) -> Migration:
        return _converted(await self.execute("query-migrate"), Migration)

    async def _wait_migration(self, what: str, seconds: float) -> None:
        with trio.move_on_after(seconds):
            while True:
                found = await self._migration()
                match found.status:
                    case "completed":
                        return
                    case "failed" | "cancelled":
                        raise HypervisorError(f"QEMU could not {what} the machine: {found.error or found.status}")
                await trio.sleep(0.005)
        raise HypervisorError(f"QEMU did not {what} the machine in {seconds:.0f} s")

    async def let_run(self) -> bool:
        """Let a paused machine run, after the end of a migration in progress. False when the machine runs already.

        HypervisorError when the machine never ran.
        """
        state = _converted(await self.execute("query-status"), RunState)
        if state.running:
            return False
        if state.status in ("inmigrate", "prelaunch"):
            raise HypervisorError("the machine has not begun to run")
        await self.execute("migrate_cancel")
        for _ in range(200):
            if (await self._migration()).status not in ("active", "setup", "device", "cancelling"):
                break
            await trio.sleep(0.01)
        await self.execute("cont")
        return True


@contextlib.contextmanager
def _bound(what: str) -> Iterator[None]:
    try:
        with trio.fail_after(_ANSWER_SECONDS):
            yield
    except trio.TooSlowError:
        raise HypervisorError(f"QEMU's monitor has not answered {what} in {_ANSWER_SECONDS:.0f} s") from None


def _converted(value: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(value, kind)
    except ValueError as error:
        raise HypervisorError(f"QEMU's monitor sends an unexpected answer: {error}") from error
