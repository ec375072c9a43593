"""The ways to buildkitd: through the tether, and by TLS."""

import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.errors import BuildkitError
from appliance.engine.builds.credentials import AUTHORITY, BUILDKIT_HOST, CERTIFICATE, KEY, BuilderKeys
from appliance.engine.builds.dialers import TlsDial, TunnelDial
from appliance.errors import Unavailable
from appliance.guest import GuestTunnel
from protos.tether.v1 import tunnel_pb2
from tests.appliance.buildkit.served import CONTROL, echo, fake_buildkitd, fake_buildkitd_by_tls
from tests.appliance.guest.served import served
from tests.live.programs import free_port
from tether.agent.tunnel import TunnelService
from tether.rpc.bridge import LoopThread
from tether.rpc.status import Code


@asynccontextmanager
async def _dial(folder: Path, path: str) -> AsyncIterator[TunnelDial]:
    service = TunnelService(lambda _: os.getpid(), str(folder / "sockets"))
    async with served((tunnel_pb2.DESCRIPTOR, "Tunnel", service)) as session:
        try:
            yield TunnelDial(GuestTunnel(session), "builder", path)
        finally:
            service.close()


async def test_calls_go_through_the_tunnel(tmp_path: Path) -> None:
    big = os.urandom(3 << 20)
    async with LoopThread.open() as loop, fake_buildkitd(loop, {f"{CONTROL}Info": echo}) as direct:
        async with direct.open() as target:
            path = target.address.removeprefix("unix:")
        with trio.fail_after(60):
            async with _dial(tmp_path, path) as dial, BuildkitChannel.open(loop, dial) as channel:
                assert await channel.call(f"{CONTROL}Info", big, 30) == big
            # The end of the channel has ended the connections; the dialer can be used again.
            async with _dial(tmp_path, path) as dial, BuildkitChannel.open(loop, dial) as channel:
                assert await channel.call(f"{CONTROL}Info", b"", 30) == b""


async def test_a_buildkitd_that_does_not_listen_yet(tmp_path: Path) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    async with LoopThread.open() as loop:
        with trio.fail_after(60):
            async with _dial(tmp_path, str(tmp_path / "none")) as dial, BuildkitChannel.open(loop, dial) as channel:
                with pytest.raises(BuildkitError) as raised:
                    await channel.call(f"{CONTROL}Info", b"", 10)
                assert raised.value.code is Code.UNAVAILABLE
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2


@asynccontextmanager
async def _secured(folder: Path) -> AsyncIterator[tuple[LoopThread, int, BuilderKeys, dict[str, bytes]]]:
    """A buildkitd at a port, the keys of vchd, and the files of the builder."""
    keys, files = BuilderKeys.make(folder / "builder")
    port = free_port()
    async with LoopThread.open() as loop:
        own = (files[AUTHORITY], files[CERTIFICATE], files[KEY])
        async with fake_buildkitd_by_tls(loop, {f"{CONTROL}Info": echo}, port, *own):
            yield loop, port, keys, files


async def test_calls_go_by_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The proxy of pulls is not for the builder.
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    big = os.urandom(3 << 20)
    async with _secured(tmp_path) as (loop, port, keys, _):
        with trio.fail_after(60):
            async with BuildkitChannel.open(loop, TlsDial("127.0.0.1", port, keys)) as channel:
                assert await channel.call(f"{CONTROL}Info", big, 30) == big


async def test_only_vchd_and_the_builder_of_one_life_get_in(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    others, _ = BuilderKeys.make(tmp_path / "other/builder")
    async with _secured(tmp_path) as (loop, port, keys, files):
        with trio.fail_after(60):
            async with BuildkitChannel.open(loop, TlsDial("127.0.0.1", port, others)) as channel:
                with pytest.raises(BuildkitError) as raised:
                    await channel.call(f"{CONTROL}Info", b"", 10)
                assert raised.value.code is Code.UNAVAILABLE

            def connect(own: BuilderKeys | None) -> bytes:
                """The first byte that a client reads, b"" at the end of the connection: by TLS 1.3 a refusal comes after its handshake."""
                context = ssl.create_default_context(cadata=files[AUTHORITY].decode())
                context.set_alpn_protocols(["h2"])
                if own is not None:
                    context.load_cert_chain(own.certificate, own.key)
                with socket.create_connection(("127.0.0.1", port), 10) as connection:
                    with context.wrap_socket(connection, server_hostname=BUILDKIT_HOST) as stream:
                        return stream.recv(1)

            assert await trio.to_thread.run_sync(connect, keys) == b"\0"
            assert await trio.to_thread.run_sync(connect, None) == b""


async def test_vchd_calls_no_server_without_the_certificate_of_the_builder(tmp_path: Path) -> None:
    async with _secured(tmp_path) as (loop, port, keys, _):
        renewed, _ = BuilderKeys.make(tmp_path / "builder")
        assert renewed == keys
        with trio.fail_after(60):
            async with BuildkitChannel.open(loop, TlsDial("127.0.0.1", port, keys)) as channel:
                with pytest.raises(BuildkitError) as raised:
                    await channel.call(f"{CONTROL}Info", b"", 10)
                assert raised.value.code is Code.UNAVAILABLE


async def test_keys_that_cannot_be_read(tmp_path: Path) -> None:
    async with LoopThread.open() as loop:
        with pytest.raises(Unavailable, match=r"the keys of the builder cannot be read: .*ca\.pem"):
            async with BuildkitChannel.open(loop, TlsDial("127.0.0.1", 1, BuilderKeys.at(tmp_path))):
                pass
