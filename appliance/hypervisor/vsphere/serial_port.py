"""A VM's serial port on the appliance's side: ESXi hosts connect to it and hand it over during vMotion; the dialler keeps its line."""

import hmac
import os
import socket
from dataclasses import dataclass
from typing import Protocol

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.vsphere.telnet import TelnetError, escape
from tether.transport import Line

_READ = 64 << 10
# Bytes that the next host may send before the vMotion is complete.
_MOST_EARLY = 1 << 20
# A vMotion that takes longer than this has failed.
_LONGEST_MOVE = 120.0


@dataclass(frozen=True, slots=True)
class PortKey:
    """Identifies a serial port: vCenter's UUID of the VM, and the port's serviceURI, which is a secret."""

    uuid: str
    uri: str


def plain_uuid(text: str) -> str:
    """The hexadecimal digits of a UUID. Hosts write "50 3c ... - ..." or "503c...-...", in upper or lower case."""
    return "".join(character for character in text.lower() if character in "0123456789abcdef")


class Connection(Protocol):
    """An ESXi host's connection. Cancelling `scope` ends the connection."""

    scope: trio.CancelScope

    async def send(self, data: bytes) -> None: ...


class SerialPort:
    """The serial port of one VM. One connection is current; during vMotion there is also the connection of the next host."""

    def __init__(self, key: PortKey) -> None:
        self.key = key
        self._current: Connection | None = None
        # The host that the VM moves to, from its VMOTION-PEER message to the end of the vMotion.
        self._next: Connection | None = None
        self._moving: bytes | None = None
        self._moving_until = 0.0
        # Connections that arrive during a vMotion, before their VMOTION-PEER message.
        self._waiting: list[Connection] = []
        # Bytes of the next host before the vMotion is complete.
        self._early = bytearray()
        self._inner: trio.socket.SocketType | None = None
        self._changed = trio.Event()
        self.gone = False

    def dial(self) -> Line:
        """Open a line to the port, instead of an earlier line. Bytes wait in the line while no host is connected."""
        if self.gone:
            raise HypervisorError("the VM's serial port does not exist any more")
        if self._inner is not None:
            self._inner.close()
        inner, outer = socket.socketpair()
        inner.setblocking(False)
        self._inner = trio.socket.from_stdlib_socket(inner)
        self._notify()
        return Line(outer.detach())

    def close(self) -> None:
        """Close the line and all connections for good."""
        self.gone = True
        if self._inner is not None:
            self._inner.close()
            self._inner = None
        for connection in (self._current, self._next, *self._waiting):
            if connection is not None:
                connection.scope.cancel()
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    # -- connections of hosts -------------------------------------------------------------------------------------

    def join(self, connection: Connection) -> None:
        """Make a connection the current one, since a VM runs on one host. During a vMotion the connection waits."""
        if self._moving is not None and self._current is not None and trio.current_time() < self._moving_until:
            self._waiting.append(connection)
            return
        if self._current is not None and self._current is not connection:
            self._current.scope.cancel()
        self._current = connection
        self._notify()

    def leave(self, connection: Connection) -> None:
        """A connection has ended."""
        if connection in self._waiting:
            self._waiting.remove(connection)
        if self._next is connection:
            self._next = None
        if self._current is connection:
            # The source host of a vMotion may hang up before its VMOTION-COMPLETE message.
            self._current = self._next or (self._waiting.pop() if self._waiting else None)
            self._next = self._moving = None
            self._early.clear()
        self._notify()

    def begin_move(self, sequence: bytes) -> bytes:
        """Begin a vMotion. Returns the token that the next host must present."""
        self._moving = sequence + os.urandom(16)
        self._moving_until = trio.current_time() + _LONGEST_MOVE
        return self._moving

    def arrive(self, connection: Connection, token: bytes) -> bool:
        """The next host has connected; False when its token is wrong. Bytes of the next host wait until the vMotion is complete."""
        if self._moving is None or not hmac.compare_digest(token, self._moving):
            return False
        self._next = connection
        if connection in self._waiting:
            self._waiting.remove(connection)
        self._notify()
        return True

    async def end_move(self, connection: Connection, *, complete: bool) -> None:
        """End a vMotion, as either host reports it: the next host becomes the current one, or is hung up."""
        if self._moving is None or connection not in (self._current, self._next):
            return
        self._moving = None
        after, self._next = self._next, None
        for other in self._waiting:
            other.scope.cancel()
        if after is None:
            return
        early, self._early = bytes(self._early), bytearray()
        if complete:
            self._current = after
            self._notify()
            await self.deliver(after, early)
        else:
            after.scope.cancel()
            self._notify()

    # -- bytes ----------------------------------------------------------------------------------------------------

    async def deliver(self, connection: Connection, data: bytes) -> None:
        """Deliver bytes of the VM to the dialler. Without a dialler the bytes are lost, as on any serial line."""
        if self._next is connection:
            self._early += data
            if len(self._early) > _MOST_EARLY:
                raise TelnetError("the next host sends too much before the vMotion is complete")
            return
        inner = self._inner
        if inner is None or self._current is not connection:
            return
        view = memoryview(data)
        try:
            while view:
                view = view[await inner.send(view) :]
        except (OSError, trio.ClosedResourceError):
            if self._inner is inner:
                inner.close()
                self._inner = None
                self._notify()

    async def run(self) -> None:
        """Carry the dialler's bytes to the VM, until the port is closed."""
        try:
            await self._carry()
        finally:
            self.close()

    async def _carry(self) -> None:
        while not self.gone:
            inner, changed = self._inner, self._changed
            # Once the next host is connected, the VM may be paused: bytes for the VM wait for the end of the vMotion.
            connection = self._current if self._next is None else None
            if inner is None or connection is None:
                await changed.wait()
                continue
            try:
                data = await inner.recv(_READ)
            except (OSError, trio.ClosedResourceError):
                data = b""
            if not data:
                if self._inner is inner:
                    inner.close()
                    self._inner = None
                continue
            while self._next is not None or self._current is None:
                if self.gone or self._inner is not inner:
                    break
                await self._changed.wait()
            if self._current is not None and self._inner is inner:
                await self._current.send(escape(data))
