"""Sockets across the wall of one guest: those that it offers to its processes, and those of its container."""

import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

import trio

from appliance.errors import Unsupported
from appliance.guest.failures import GuestFailure, translate
from appliance.guest.session import GuestSession
from appliance.guest.setup import GuestSocket
from protos.tether.v1 import tunnel_pb2
from protos.tether.v1.tunnel_pb2 import Segment, Target
from tether.rpc.carry import SENDERS, carry
from tether.rpc.client import ServerStream
from tether.rpc.status import Code, RpcError

# A segment has 64 KiB of data, an announcement some numbers.
_SEGMENT_BYTES = 80 << 10
_ANNOUNCEMENT_BYTES = 64


@dataclass(frozen=True, slots=True)
class Accepted:
    """A connection of a guest's process to the socket `socket`. `number` names the connection, `uid` and `gid` are the process's."""

    socket: int
    number: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class ContainerUnix:
    """A unix socket at a path of the container of process `process_id`."""

    process_id: str
    path: str


@dataclass(frozen=True, slots=True)
class ContainerTcp:
    """A port in the network namespace of process `process_id`: `address` is "host:port" with an IP address."""

    process_id: str
    address: str


class GuestTunnel:
    """The sockets of one guest. Its connections share the right to send."""

    def __init__(self, session: GuestSession) -> None:
        self._session = session
        self._senders = trio.CapacityLimiter(SENDERS)

    async def listen(self, sockets: Sequence[GuestSocket], timeout: float) -> None:
        """Make the guest listen at sockets, at most `timeout` seconds from now. Unsupported when it is of an earlier version."""
        wanted = [tunnel_pb2.Socket(number=one.number, mode=one.mode, uid=one.uid, gid=one.gid) for one in sockets]
        request = tunnel_pb2.ListenRequest(sockets=wanted)
        try:
            await self._session.call("Tunnel/Listen", request, tunnel_pb2.ListenResponse, timeout)
        except GuestFailure as error:
            if error.code is not Code.UNIMPLEMENTED:
                raise
            raise Unsupported(
                "the guest of this machine is of an earlier version, which cannot relay sockets of the host: start vchd with the guest "
                "of its own version"
            ) from error

    async def accepted(self, sockets: Sequence[int] = ()) -> AsyncGenerator[Accepted, None]:
        """The connections to the sockets of these numbers, by default to all sockets, until the link is reset.

        VchError then, or when the guest is gone.
        """
        request, response = tunnel_pb2.AcceptRequest(sockets=sockets), tunnel_pb2.AcceptResponse
        async with self._session.stream("Tunnel/Accept", request, response, most=_ANNOUNCEMENT_BYTES) as stream:
            while batch := await stream.receive():
                for one in batch:
                    yield Accepted(one.socket, one.connection, one.uid, one.gid)

    async def relay(
        self, target: Accepted | ContainerUnix | ContainerTcp, stream: trio.abc.HalfCloseableStream | None
    ) -> None:
        """Carry a connection of the guest to `stream` until both have ended; then `stream` is closed. None: close the connection.

        NotFound or GuestFailure when there is nothing to connect to, Conflict when a program sends file descriptors, GuestFailure
        when the guest breaks the connection.
        """
        try:
            async with self._session.stream("Tunnel/Dial", None, Segment, most=_SEGMENT_BYTES) as call:
                await self._relay(call, target, stream)
        except RpcError as error:
            raise translate(error) from error
        finally:
            if stream is not None:
                await trio.aclose_forcefully(stream)

    async def _relay(
        self,
        call: ServerStream[Segment],
        target: Accepted | ContainerUnix | ContainerTcp,
        stream: trio.abc.HalfCloseableStream | None,
    ) -> None:
        await call.send(Segment(target=_encode(target), closed=stream is None))
        if stream is not None:
            await carry(stream, call, self._senders)
        # The connection has ended. How the call ends says no more, but a cancelled call would drop what the guest has for its process.
        with contextlib.suppress(RpcError):
            await call.done_sending()
            while await call.receive():
                pass


def _encode(target: Accepted | ContainerUnix | ContainerTcp) -> Target:
    match target:
        case Accepted():
            return Target(accepted=target.number)
        case ContainerUnix(process_id, path):
            return Target(id=process_id, unix_path=path)
        case ContainerTcp(process_id, address):
            return Target(id=process_id, tcp_address=address)
