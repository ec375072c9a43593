"""Socket mounts from the engine's side: a program in a scripted guest, and a server at a socket of this host."""

import logging
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.container.host_config import HostConfig, Mount
from appliance.engine.sockets import relays
from appliance.engine.sockets.dialer import Dialer
from appliance.engine.sockets.relays import Relay
from appliance.errors import Unsupported
from appliance.guest import GuestTunnel
from protos.tether.v1 import tunnel_pb2
from tests.appliance.engine.harness import Engine, Host, engine
from tests.appliance.guest.served import served
from tests.steps import cpu_of_steps, in_fresh_process
from tether.rpc.call import Call


@asynccontextmanager
async def echo_at(path: Path) -> AsyncIterator[None]:
    """A server that echoes each connection until its half close."""
    listener = trio.socket.socket(socket.AF_UNIX)
    await listener.bind(str(path))
    listener.listen()

    async def echo(stream: trio.SocketStream) -> None:
        try:
            async for data in stream:
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, echo, [trio.SocketListener(listener)])
        yield
        nursery.cancel_scope.cancel()
    path.unlink()


async def _ask(path: Path, text: bytes) -> bytes:
    """What a program of the guest gets back."""
    async with await trio.open_unix_socket(path) as program:
        await program.send_all(text)
        await program.send_eof()
        return b"".join([part async for part in program])


async def test_a_socket_of_the_host_is_relayed(host: Host, tmp_path: Path) -> None:
    host.guest.sockets = tmp_path
    source = tmp_path / "source"
    with trio.fail_after(60):
        async with engine(host, tmp_path) as daemon, echo_at(source):
            os.chmod(source, 0o640)
            mounts = [Mount(type="bind", source=str(source), target="/ro", read_only=True)]
            wanted = HostConfig(binds=["data:/data", f"{source}:/run/x.sock"], mounts=mounts)
            container = await daemon.run(host=wanted)
            sockets = tmp_path / container.id[:12]
            spec = host.guest.process(container.id).spec
            shown = {mount.destination: (mount.source, "ro" in mount.options) for mount in spec.mounts or ()}
            assert shown["/run/x.sock"] == ("/run/tether/sockets/1", False)
            assert shown["/ro"] == ("/run/tether/sockets/2", True)
            assert oct(os.stat(sockets / "2").st_mode) == oct(0o140640)
            assert await _ask(sockets / "1", b"hello" * 100_000) == b"hello" * 100_000
            broken = await trio.open_unix_socket(sockets / "1")
            await broken.send_all(b"x")
            assert await broken.receive_some() == b"x"
        # vchd is gone. Programs can connect still, and wait. The source is gone, too.
        waiting = await trio.open_unix_socket(sockets / "1")
        async with engine(host, tmp_path) as daemon:
            assert await broken.receive_some() == b""
            assert await waiting.receive_some() == b""
            await broken.aclose()
            await waiting.aclose()
            assert await _ask(sockets / "2", b"") == b""
            async with echo_at(source):
                assert await _ask(sockets / "2", b"back") == b"back"


async def test_a_guest_of_an_earlier_version_is_refused(host: Host, daemon: Engine, tmp_path: Path) -> None:
    async with echo_at(tmp_path / "source"):
        with pytest.raises(Unsupported, match="cannot relay sockets of the host"):
            await daemon.run(host=HostConfig(binds=[f"{tmp_path}/source:/x"]))


class _Flooding:
    """A guest that announces connections for ever, and answers each Dial with more than it may send."""

    def __init__(self, sockets: tuple[int, ...]) -> None:
        self._sockets = sockets
        self.announced = 0
        self.dialled = 0
        self.wanted = 0
        self.reached = trio.Event()

    async def wait_dialled(self, count: int) -> None:
        self.wanted = count
        await self.reached.wait()

    def count(self) -> None:
        self.dialled += 1
        if self.dialled == self.wanted:
            self.reached.set()

    async def accept(self, _: tunnel_pb2.AcceptRequest, call: Call) -> None:
        while True:
            for number in self._sockets:
                self.announced += 1
                await call.send(tunnel_pb2.AcceptResponse(socket=number, connection=self.announced))
                await trio.lowlevel.checkpoint()

    async def dial(self, call: Call) -> None:
        self.count()
        while True:
            await call.send(tunnel_pb2.Segment(data=bytes(60_000)))
            await trio.lowlevel.checkpoint()


class _Unread(Dialer):
    """Servers that never read."""

    def __init__(self) -> None:
        self.open = self.most = 0
        self.kept: list[socket.socket] = []

    async def dial(self, uid: int, gid: int) -> trio.abc.HalfCloseableStream:
        near, far = socket.socketpair()
        near.setblocking(False)
        self.kept.append(far)
        return trio.SocketStream(trio.socket.from_stdlib_socket(near))


async def test_a_guest_that_floods(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    guest, dialer = _Flooding((1, 2)), _Unread()
    async with served((tunnel_pb2.DESCRIPTOR, "Tunnel", guest)) as session, trio.open_nursery() as nursery:
        with cpu_of_steps() as steps:
            relay = Relay("id", GuestTunnel(session), {1: dialer})
            nursery.start_soon(relay.run)
            await guest.wait_dialled(20)
            nursery.cancel_scope.cancel()
        # Half of the announcements are for a socket that does not exist. Each connection breaks the protocol, and is closed.
        assert relay._slots[1].value >= 0
        assert steps.longest < 0.05, steps
    for kept in dialer.kept:
        kept.close()
    assert len(caplog.records) < 5


class _Filling(_Flooding):
    """A guest that sends in each connection as much as it may, and announces more than it may."""

    async def dial(self, call: Call) -> None:
        await call.receive()
        for _ in range(2):
            await call.send(tunnel_pb2.Segment(data=bytes(64 << 10)))
        self.count()
        await trio.sleep_forever()


_FLOODED = 128


def flooded() -> int:
    """Connections of three sockets until the limit of the machine, none of which is read. Returns how many there are."""

    # The memory is in proportion.
    relays.MOST_OF_MACHINE = _FLOODED

    async def run() -> int:
        guest, dialers = _Filling((1, 2, 3)), {number: _Unread() for number in (1, 2, 3)}
        async with served((tunnel_pb2.DESCRIPTOR, "Tunnel", guest)) as session, trio.open_nursery() as nursery:
            nursery.start_soon(Relay("id", GuestTunnel(session), dialers).run)
            await guest.wait_dialled(_FLOODED)
            await trio.sleep(0.2)
            nursery.cancel_scope.cancel()
        for dialer in dialers.values():
            for kept in dialer.kept:
                kept.close()
        return guest.dialled

    return trio.run(run)


def test_memory_for_connections_that_are_never_read() -> None:
    child = in_fresh_process(flooded)
    assert child.result == _FLOODED
    # In each connection 128 KiB at most, some of them in the socket to the server; and what the guest, in the same process, has of them.
    assert child.grown < _FLOODED * (512 << 10), child


async def test_no_more_connections_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that announces more gets no answer for them."""
    monkeypatch.setattr(relays, "MOST_CONNECTIONS", 16)

    class _Silent(_Flooding):
        async def dial(self, call: Call) -> None:
            self.count()
            await trio.sleep_forever()

    guest, dialer = _Silent((1,)), _Unread()
    async with served((tunnel_pb2.DESCRIPTOR, "Tunnel", guest)) as session, trio.open_nursery() as nursery:
        nursery.start_soon(Relay("id", GuestTunnel(session), {1: dialer}).run)
        await guest.wait_dialled(16)
        await trio.sleep(0.2)
        assert guest.dialled == len(dialer.kept) == 16
        nursery.cancel_scope.cancel()
    for kept in dialer.kept:
        kept.close()
