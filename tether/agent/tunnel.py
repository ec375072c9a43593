"""Sockets across the VM's wall: Tunnel of protos/tether/v1/tunnel.proto.

The guest's kernel keeps a listening socket for each socket mount at /run/tether/sockets/NUMBER, and the container has that file
bind-mounted. The listening sockets stay when the link or the appliance's daemon ends, and in a checkpoint; connections do not.
"""

import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from protos.tether.v1.tunnel_pb2 import (
    AcceptRequest,
    AcceptResponse,
    ListenRequest,
    ListenResponse,
    Segment,
    Socket,
    Target,
)
from tether.launch.namespaces import open_namespace
from tether.rpc.call import Call
from tether.rpc.carry import SENDERS, carry
from tether.rpc.status import Code, RpcError
from tether.system import linux
from tether.system.network_namespace import entered
from tether.transport.unix_socket import connect_unix

SOCKETS = "/run/tether/sockets"
# Connections of one socket, and of the machine, at a time. Further connections wait in the kernel's queue, and then in connect(2).
# The tether may have 1024 open files.
MOST_CONNECTIONS, MOST_OF_MACHINE = 256, 512
_BACKLOG = 128
_CREDENTIALS = struct.Struct("3i")


@dataclass(slots=True)
class _Listener:
    """`accepting` is held by the call of Accept that watches the socket."""

    socket: trio.socket.SocketType
    accepting: trio.Lock = field(default_factory=trio.Lock)
    slots: trio.Semaphore = field(default_factory=lambda: trio.Semaphore(MOST_CONNECTIONS))


@dataclass(slots=True)
class _Accepted:
    """A connection that Accept has announced, and no Dial has taken."""

    stream: trio.SocketStream
    listener: _Listener


class TunnelService:
    """`pid_of` returns the pid of a running process by its id, or raises RpcError. `directory` holds the sockets."""

    def __init__(self, pid_of: Callable[[str], int], directory: str = SOCKETS) -> None:
        self._pid_of = pid_of
        self._directory = directory
        self._listeners: dict[int, _Listener] = {}
        self._slots = trio.Semaphore(MOST_OF_MACHINE)
        self._accepted: dict[int, _Accepted] = {}
        self._numbers = itertools.count(1)
        self._senders = trio.CapacityLimiter(SENDERS)

    def listen(self, request: ListenRequest) -> ListenResponse:
        try:
            os.makedirs(self._directory, exist_ok=True)
            for wanted in request.sockets:
                if wanted.number not in self._listeners:
                    self._listeners[wanted.number] = _Listener(_listen(f"{self._directory}/{wanted.number}", wanted))
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"sockets: {error}") from error
        return ListenResponse()

    def close(self) -> None:
        """Close all sockets, as the loss of power does."""
        self.close_sockets(list(self._listeners))

    def close_sockets(self, numbers: Iterable[int]) -> None:
        """Close sockets and remove their files. Connections that a call of Dial carries stay."""
        for number in numbers:
            listener = self._listeners.pop(number, None)
            if listener is not None:
                listener.socket.close()
                self._abandon([name for name, one in self._accepted.items() if one.listener is listener])
                with suppress(FileNotFoundError):
                    os.unlink(f"{self._directory}/{number}")

    async def accept(self, request: AcceptRequest, call: Call) -> None:
        wanted = list(request.sockets) or list(self._listeners)
        for number in wanted:
            if number not in self._listeners:
                raise RpcError(Code.NOT_FOUND, f"no socket {number}")
        announced: set[int] = set()
        try:
            async with trio.open_nursery() as nursery:
                for number in wanted:
                    nursery.start_soon(self._accept_from, number, self._listeners[number], call, announced)
                await trio.sleep_forever()
        finally:
            self._abandon(announced)

    def _abandon(self, names: Iterable[int]) -> None:
        """Close connections that no Dial has taken."""
        for name in names:
            left = self._accepted.pop(name, None)
            if left is not None:
                left.stream.socket.close()
                self._release(left.listener)

    async def _accept_from(self, number: int, listener: _Listener, call: Call, announced: set[int]) -> None:
        # A call of an earlier session may not have ended yet.
        async with listener.accepting:
            while self._listeners.get(number) is listener:
                try:
                    name, uid, gid = await self._accept_one(listener)
                except (ConnectionError, trio.ClosedResourceError):
                    continue
                announced.add(name)
                await call.send(AcceptResponse(socket=number, connection=name, uid=uid, gid=gid))

    async def _accept_one(self, listener: _Listener) -> tuple[int, int, int]:
        """Accept a connection; return its name, and the user and group of its other end."""
        await listener.slots.acquire()
        try:
            await self._slots.acquire()
        except BaseException:
            listener.slots.release()
            raise
        try:
            connection, _ = await listener.socket.accept()
        except BaseException:
            self._release(listener)
            raise
        _, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        name = next(self._numbers)
        self._accepted[name] = _Accepted(trio.SocketStream(connection), listener)
        return name, uid, gid

    def _release(self, listener: _Listener) -> None:
        listener.slots.release()
        self._slots.release()

    async def dial(self, call: Call) -> None:
        first = await call.receive()
        if first is None or not first.HasField("target"):
            raise RpcError(Code.INVALID_ARGUMENT, "the first segment names no target")
        if first.target.WhichOneof("address") != "accepted":
            await self._carry(await self._connect(first.target), first, call)
            return
        accepted = self._accepted.pop(first.target.accepted, None)
        if accepted is None:
            raise RpcError(Code.NOT_FOUND, "no such connection")
        try:
            await self._carry(accepted.stream, first, call)
        finally:
            self._release(accepted.listener)

    async def _carry(self, stream: trio.SocketStream, first: Segment, call: Call) -> None:
        pipe = _CallPipe(call, first)
        try:
            await pipe.send(Segment())
        except BaseException:
            stream.socket.close()
            raise
        await carry(stream, pipe, self._senders)
        # The appliance's writes to a call that has ended would fail, and gRPC then drops what the appliance has not read yet.
        while await pipe.receive():
            pass

    async def _connect(self, target: Target) -> trio.SocketStream:
        """Connect to a socket of a container. RpcError with the system's words."""
        pid = self._pid_of(target.id)
        try:
            if target.WhichOneof("address") == "unix_path":
                return await _connect_unix(f"/proc/{pid}/root", target.unix_path)
            return await _connect_tcp(pid, target.tcp_address)
        except FileNotFoundError as error:
            raise RpcError(Code.NOT_FOUND, f"connect: {error.strerror}") from error
        except (OSError, ValueError) as error:
            raise RpcError(Code.UNAVAILABLE, f"connect: {error}") from error


class _CallPipe:
    """The guest's end of a call of Dial."""

    def __init__(self, call: Call, first: Segment) -> None:
        self._call = call
        self._first: Segment | None = first

    async def send(self, segment: Segment) -> None:
        await self._call.send(segment)
        if segment.data:
            # The senders of a machine take turns, so that the data of other calls never waits for more than a few segments.
            await self._call.drain()

    async def receive(self) -> list[Segment]:
        segment, self._first = self._first or await self._call.receive(), None
        return [segment] if segment is not None else []


def _listen(path: str, wanted: Socket) -> trio.socket.SocketType:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        listener.bind(path)
        os.chown(path, wanted.uid, wanted.gid)
        os.chmod(path, wanted.mode & 0o7777)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return trio.socket.from_stdlib_socket(listener)


async def _connect_unix(root: str, path: str) -> trio.SocketStream:
    """Connect to a path inside a root; no link leads outside."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        place = linux.open_in_root(top, path.lstrip("/") or ".", os.O_PATH)
    finally:
        os.close(top)
    try:
        return await connect_unix(place)
    finally:
        os.close(place)


async def _connect_tcp(pid: int, address: str) -> trio.SocketStream:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Names would be looked up in a thread, and outside of the container.
    socket.inet_pton(family, host)
    # A socket belongs to the network namespace in which it is made.
    theirs = open_namespace(pid, "network")
    try:
        with entered(theirs):
            made = socket.socket(family, socket.SOCK_STREAM)
    finally:
        os.close(theirs)
    connection = trio.socket.from_stdlib_socket(made)
    try:
        await connection.connect((host, int(port)))
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(connection)
