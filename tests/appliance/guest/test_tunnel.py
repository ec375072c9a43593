"""Sockets across the wall: the tether's service at one end of a link, the appliance's client at the other."""

import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.errors import Conflict, NotFound, Unsupported
from appliance.guest import Accepted, ContainerTcp, ContainerUnix, GuestFailure, GuestSession, GuestSocket, GuestTunnel
from protos.tether.v1 import tunnel_pb2
from tests.appliance.guest.served import served
from tests.steps import cpu_of_steps
from tether.agent import tunnel as agent
from tether.agent.tunnel import TunnelService
from tether.transport.unix_socket import connect_unix

SIZE = 3 << 20


@asynccontextmanager
async def tunnel_to(tmp_path: Path) -> AsyncIterator[tuple[GuestTunnel, GuestSession, str]]:
    """A guest that listens at the socket 7, whose path comes third."""
    service = TunnelService(lambda _: os.getpid(), str(tmp_path / "sockets"))
    async with served((tunnel_pb2.DESCRIPTOR, "Tunnel", service)) as session:
        tunnel = GuestTunnel(session)
        await tunnel.listen([GuestSocket(7, 0o620, os.getuid(), os.getgid())], 10)
        try:
            yield tunnel, session, str(tmp_path / "sockets/7")
        finally:
            service.close()


# What a test has opened itself.
_OURS: list[trio.SocketStream] = []


@pytest.fixture(autouse=True)
def close_ours() -> Iterator[None]:
    yield
    while _OURS:
        _OURS.pop().socket._sock.close()  # type: ignore[attr-defined]


def _pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """The stream for the tunnel, which closes it, and the stream of a server."""
    near, far = map(trio.SocketStream, trio.socket.socketpair())
    _OURS.append(far)
    return near, far


async def _connect(path: str) -> trio.SocketStream:
    """A program in the guest connects."""
    program = await trio.open_unix_socket(path)
    _OURS.append(program)
    return program


async def _until_broken(stream: trio.SocketStream) -> None:
    """Send until the other end has closed its socket in both directions."""
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.02)


async def _read_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([part async for part in stream])


async def test_the_guest_listens_with_mode_and_owner(tmp_path: Path) -> None:
    async with tunnel_to(tmp_path) as (tunnel, _, path):
        found = os.stat(path)
        assert (oct(found.st_mode), found.st_uid, found.st_gid) == (oct(0o140620), os.getuid(), os.getgid())
        # A repetition, after a reset of the link, leaves the socket as it is.
        await tunnel.listen([GuestSocket(7, 0o600, os.getuid(), os.getgid())], 10)
        assert os.stat(path) == found


async def test_bytes_both_ways_with_half_close(tmp_path: Path) -> None:
    up, down = os.urandom(SIZE), os.urandom(SIZE)
    async with tunnel_to(tmp_path) as (tunnel, _, path), trio.open_nursery() as nursery:
        program = await _connect(path)
        near, far = _pair()
        accepting = tunnel.accepted()
        accepted = await anext(accepting)
        assert (accepted.socket, accepted.uid, accepted.gid) == (7, os.getuid(), os.getgid())
        nursery.start_soon(tunnel.relay, accepted, near)

        async def talk() -> None:
            await program.send_all(up)
            await program.send_eof()

        nursery.start_soon(talk)
        # The program's half is closed, the other half still flows.
        assert hashlib.sha256(await _read_all(far)).digest() == hashlib.sha256(up).digest()
        nursery.start_soon(far.send_all, down)
        received = b""
        while len(received) < SIZE:
            received += await program.receive_some()
        await far.aclose()
        assert await program.receive_some() == b""
        assert received == down
        await program.aclose()
        await accepting.aclose()


async def test_connections_end_with_their_sockets(tmp_path: Path) -> None:
    async with tunnel_to(tmp_path) as (tunnel, _, path), trio.open_nursery() as nursery:
        accepting = tunnel.accepted()

        async def connect() -> tuple[trio.SocketStream, trio.SocketStream]:
            program = await _connect(path)
            near, far = _pair()
            nursery.start_soon(tunnel.relay, await anext(accepting), near)
            return program, far

        # The program ends while it sends.
        program, far = await connect()
        await program.send_all(b"last words")
        await program.aclose()
        assert await _read_all(far) == b"last words"
        await _until_broken(far)
        # The server answers and closes without reading all.
        program, far = await connect()
        await program.send_all(b"a long request")
        assert await far.receive_some(1) == b"a"
        await far.send_all(b"no")
        await far.aclose()
        assert await _read_all(program) == b"no"
        with pytest.raises(trio.BrokenResourceError):
            await program.send_all(b"x")
        # The program closes its socket after a half close: the server sees the end of its other half, too.
        program, far = await connect()
        await program.send_eof()
        assert await far.receive_some(1) == b""
        await program.aclose()
        await _until_broken(far)
        # Nothing to connect to.
        program = await _connect(path)
        await tunnel.relay(await anext(accepting), None)
        assert await program.receive_some() == b""
        await accepting.aclose()


async def test_file_descriptors_are_refused(tmp_path: Path) -> None:
    async with tunnel_to(tmp_path) as (tunnel, _, path), trio.open_nursery() as nursery:
        program = await _connect(path)
        near, far = _pair()
        accepting = tunnel.accepted()
        accepted = await anext(accepting)

        async def relay() -> None:
            with pytest.raises(Conflict, match="file descriptors cannot pass"):
                await tunnel.relay(accepted, near)

        nursery.start_soon(relay)
        socket.send_fds(program.socket._sock, [b"take this"], [0])  # type: ignore[attr-defined]
        assert await far.receive_some() == b""
        await _until_broken(program)
        await accepting.aclose()


async def test_a_reset_of_the_link_ends_connections_and_keeps_the_socket(tmp_path: Path) -> None:
    async with tunnel_to(tmp_path) as (tunnel, session, path), trio.open_nursery() as nursery:
        taken, waiting = await _connect(path), await _connect(path)
        near, far = _pair()
        accepting = tunnel.accepted()
        first, _ = await anext(accepting), await anext(accepting)

        async def relay() -> None:
            with pytest.raises(GuestFailure):
                await tunnel.relay(first, near)

        nursery.start_soon(relay)
        await taken.send_all(b"x")
        assert await far.receive_some() == b"x"
        session.reset_link()
        for program in (taken, waiting, far):
            assert await program.receive_some() == b""
        with pytest.raises(GuestFailure):
            await anext(accepting)
        later = await _connect(path)
        near, far = _pair()
        accepting = tunnel.accepted()
        nursery.start_soon(tunnel.relay, await anext(accepting), near)
        await later.send_all(b"again")
        assert await far.receive_some() == b"again"
        await later.aclose()
        await far.aclose()
        await accepting.aclose()


async def test_a_flood_of_connections_that_nobody_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest accepts its limit. What is under way in each connection is bounded, and steps stay short."""
    limit, waiting = 32, 50
    monkeypatch.setattr(agent, "MOST_CONNECTIONS", limit)
    async with tunnel_to(tmp_path) as (tunnel, _, path), trio.open_nursery() as nursery:
        sent = 0
        ends = []

        async def fill() -> None:
            nonlocal sent
            place = os.open(path, os.O_PATH)
            try:
                program = await connect_unix(place)
            finally:
                os.close(place)
            async with program:
                with contextlib.suppress(trio.BrokenResourceError):
                    while True:
                        await program.send_all(bytes(4096))
                        sent += 4096

        async def accept() -> None:
            async with aclosing(tunnel.accepted()) as accepting:
                async for accepted in accepting:
                    near, far = _pair()
                    ends.append(far)
                    nursery.start_soon(tunnel.relay, accepted, near)

        with cpu_of_steps() as steps:
            nursery.start_soon(accept)
            for _ in range(limit + waiting):
                nursery.start_soon(fill)
            before = -1
            while before != sent:
                before = sent
                # Other calls go on.
                await tunnel.listen([], 5)
                await trio.sleep(0.5)
        assert len(ends) == limit
        # In each connection: the buffers of two sockets, and the window.
        assert sent < (limit + waiting) << 20, sent
        assert steps.longest < 0.05, steps
        nursery.cancel_scope.cancel()


async def test_sockets_of_a_container(tmp_path: Path) -> None:
    async with tunnel_to(tmp_path) as (tunnel, _, _), trio.open_nursery() as nursery:

        async def answer(stream: trio.SocketStream) -> None:
            await stream.send_all(await _read_all(stream))
            await stream.aclose()

        tcp = (await nursery.start(trio.serve_tcp, answer, 0))[0].socket.getsockname()[1]
        own = socket.socket(socket.AF_UNIX)
        own.bind(str(tmp_path / "own"))
        own.listen()
        own.setblocking(False)
        unix = trio.SocketListener(trio.socket.from_stdlib_socket(own))
        nursery.start_soon(trio.serve_listeners, answer, [unix])
        (tmp_path / "link").symlink_to(tmp_path / "own")
        for target in (ContainerTcp("p", f"127.0.0.1:{tcp}"), ContainerUnix("p", str(tmp_path / "link"))):
            near, far = _pair()
            nursery.start_soon(tunnel.relay, target, near)
            await far.send_all(b"hello")
            await far.send_eof()
            assert await _read_all(far) == b"hello"
        for wrong, error in (
            (ContainerUnix("p", "/no/such"), NotFound),
            (ContainerUnix("p", str(tmp_path)), GuestFailure),
            (ContainerTcp("p", "a.name:80"), GuestFailure),
            (ContainerTcp("p", "127.0.0.1:x"), GuestFailure),
            (ContainerTcp("p", ""), GuestFailure),
            (Accepted(7, 1234, 0, 0), NotFound),
        ):
            near, far = _pair()
            with pytest.raises(error):
                await tunnel.relay(wrong, near)
            assert await far.receive_some() == b""
        nursery.cancel_scope.cancel()
        own.close()


async def test_a_guest_of_an_earlier_version_is_refused_by_name() -> None:
    async with served() as session:
        with pytest.raises(Unsupported, match="earlier version, which cannot relay sockets"):
            await GuestTunnel(session).listen([GuestSocket(0, 0o600, 0, 0)], 10)
