"""Joins grpcio to the link. grpcio connects to a unix socket of this process; each connection is carried by one link session."""

import os
import socket
import struct
import tempfile
from collections import deque
from collections.abc import Callable
from typing import Any

import trio

from tether.link import Data, Event, Opened, Reset
from tether.transport import JunkAllowance, Line, LinkedLine

# Pieces of data up to this size are joined while they wait: one-byte frames would take a hundred times their size.
_SMALL = 4096


def listen_in_private() -> tuple[socket.socket, int]:
    """A listening unix socket that only this process can connect to, and a descriptor of its place: connect to /proc/self/fd/DESCRIPTOR.

    grpcio's Python interface takes no end of a socket pair, and dials again for each session of the link. So the socket is bound in
    a folder that only this user may enter, and removed from there at once. An abstract socket could be dialled by any local process.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with tempfile.TemporaryDirectory(prefix="vch-") as folder:
            opened = os.open(folder, os.O_PATH | os.O_CLOEXEC)
            try:
                # The path of a unix socket has 107 bytes at most, and TMPDIR may be longer.
                path = f"/proc/self/fd/{opened}/grpc"
                listener.bind(path)
                listener.listen(4)
                return listener, os.open(path, os.O_PATH | os.O_CLOEXEC)
            finally:
                os.close(opened)
    except BaseException:
        listener.close()
        raise


class GrpcioSocket:
    """Runs the link, and carries its bytes to and from grpcio: one connection of the socket is one session of the link."""

    def __init__(self, line: Line, window: int, on_opened: Callable[[], Any]) -> None:
        allowance = JunkAllowance(trio.current_time())
        self.linked = LinkedLine(line, _random_id, self._on_event, window=window, allowance=allowance)
        self.linked.on_room = self._wake_reader
        self._on_opened = on_opened
        self._session: int | None = None
        self._change = trio.Event()
        self._incoming: deque[tuple[int, bytes | bytearray]] = deque()
        self._arrived = trio.Event()
        self._room = trio.Event()

    def _on_event(self, event: Event) -> None:
        match event:
            case Opened(session):
                self._session = session
                self._changed()
            case Reset():
                self._session = None
                self._incoming.clear()
                self._changed()
            case Data(session, data):
                self._queue(session, data)
                self._arrived.set()

    def _queue(self, session: int, data: bytes) -> None:
        if len(data) <= _SMALL and self._incoming:
            number, last = self._incoming[-1]
            if number == session and isinstance(last, bytearray) and len(last) <= _SMALL:
                last += data
                return
        self._incoming.append((session, bytearray(data) if len(data) <= _SMALL else data))

    def reset(self) -> None:
        self.linked.connection.reset(trio.current_time())
        self.linked.deliver()
        self.linked.flush()

    def _changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()

    def _wake_reader(self) -> None:
        self._room.set()

    async def accept_loop(self, listener: trio.socket.SocketType) -> None:
        used: int | None = None
        while True:
            while self._session is None:
                await self._change.wait()
            if used == self._session:
                # grpcio has closed its connection: end the session, so that the guest closes its half too.
                self.reset()
                continue
            session = self._session
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._on_opened)
                connection, _ = await listener.accept()
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            if struct.unpack("3i", credentials)[0] != os.getpid():
                connection.close()
                continue
            used = session
            with connection:
                async with trio.open_nursery() as nursery:

                    async def watch(scope: trio.CancelScope = nursery.cancel_scope, session: int = session) -> None:
                        while self._session == session:
                            await self._change.wait()
                        scope.cancel()

                    nursery.start_soon(watch)
                    nursery.start_soon(self._upward, connection, session, nursery.cancel_scope)
                    await self._downward(connection, session)
                    nursery.cancel_scope.cancel()

    async def _upward(self, connection: trio.socket.SocketType, session: int, scope: trio.CancelScope) -> None:
        """Link to grpcio."""
        try:
            while True:
                while not self._incoming:
                    self._arrived = trio.Event()
                    await self._arrived.wait()
                if self._session != session:
                    # The data belongs to the next session, which another task carries.
                    await trio.sleep_forever()
                number, data = self._incoming.popleft()
                if number != session:
                    continue
                view = memoryview(data)
                while view:
                    view = view[await connection.send(view) :]
                self.linked.connection.acknowledge(session, len(data))
                if self.linked.connection.owes_acknowledgement:
                    self.linked.flush()
        except OSError:
            scope.cancel()

    async def _downward(self, connection: trio.socket.SocketType, session: int) -> None:
        """grpcio to link."""
        link = self.linked.connection
        while True:
            try:
                data = await connection.recv(256 << 10)
            except OSError:
                return
            if not data:
                return
            view = memoryview(data)
            while view:
                if self._session != session:
                    return
                taken = link.send(view)
                view = view[taken:]
                self._room = trio.Event()
                self.linked.flush()
                if view and not link.send_room():
                    await self._room.wait()


def _random_id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1
