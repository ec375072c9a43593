"""The way to buildkitd through the tether."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.errors import BuildkitError
from appliance.engine.builds.dialers import TunnelDial
from appliance.guest import GuestTunnel
from protos.tether.v1 import tunnel_pb2
from tests.appliance.buildkit.served import CONTROL, echo, fake_buildkitd
from tests.appliance.guest.served import served
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
