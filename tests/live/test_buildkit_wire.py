"""Real buildx builds with a native buildkitd, through the HTTP upgrade, the gRPC connection, the session bridge and TLS alone."""

import asyncio
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.client_socket import client_streams
from appliance.buildkit.forward import CONTROL, PASSED, forward, refuse
from appliance.buildkit.grpc_connection import GrpcConnection
from appliance.buildkit.server_call import ServerCall
from appliance.buildkit.session_bridge import bridge, session_metadata
from appliance.engine.builds.credentials import AUTHORITY, CERTIFICATE, KEY, BuilderKeys
from appliance.engine.builds.dialers import TlsDial
from appliance.http import ClientLimits, HijackedStream, Readiness, Reply, Request, accept_connections, serve_connection
from tests.live import gotools
from tests.live.buildkit_native import native_buildkitd
from tests.live.programs import free_port
from tether.rpc.bridge import LoopThread

_FACTS = b"Api-Version: 1.51\r\nOstype: linux\r\nBuilder-Version: 2\r\n"
# What this daemon answers itself is not part of this test.
_SERVED = PASSED | {CONTROL + name for name in ("Info", "ListWorkers", "Solve")}

_DOCKERFILE = """
FROM scratch AS base
COPY busybox /bin/busybox
COPY large /large
RUN --mount=type=secret,id=word ["/bin/busybox", "sh", "-c", "/bin/busybox cp /run/secrets/word /word"]
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox sha256sum /large > /sum; echo counted"]
FROM scratch
COPY --from=base /sum /word /
"""

_FAILING = """
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "echo about to fail; exit 7"]
"""


class _Front:
    """As much of the Docker API as buildx asks for."""

    def __init__(self, channel: BuildkitChannel) -> None:
        self._channel = channel
        self._budget = ByteBudget()
        self.methods: list[str] = []

    async def handle(self, request: Request, reply: Reply) -> None:
        match request.raw_path.removeprefix("/v1.51"):
            case "*":
                await self._carry(reply.take_over(), self._grpc)
            case "/grpc":
                async with reply.upgrade("h2c") as stream:
                    await self._carry(stream, self._grpc)
            case "/session":
                metadata = session_metadata(request.headers.items())

                async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes) -> None:
                    await bridge(reader, writer, early, metadata, self._channel)

                async with reply.upgrade("h2c") as stream:
                    await self._carry(stream, session)
            case "/_ping":
                await reply.raw(200, b"text/plain", b"OK")
            case _:
                await reply.json(200, {"ApiVersion": "1.51", "Version": "28.0.0", "OSType": "linux", "Driver": "vch"})

    async def _carry(
        self,
        stream: HijackedStream,
        serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter, bytes], Awaitable[None]],
    ) -> None:
        connection, early = await stream.detach()

        async def run() -> None:
            async with client_streams(connection) as (reader, writer):
                await serve(reader, writer, early)

        await self._channel.loop.run(run)

    async def _grpc(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, early: bytes) -> None:
        await GrpcConnection(reader, writer, self._serve, self._budget).run(early)

    async def _serve(self, call: ServerCall) -> None:
        self.methods.append(call.path)
        if call.path in _SERVED:
            await forward(call, self._channel)
        else:
            refuse(call)


@asynccontextmanager
async def _served(folder: Path) -> AsyncIterator[tuple[str, _Front]]:
    """DOCKER_HOST of a front before the TCP port of a native buildkitd."""
    keys, files = BuilderKeys.make(folder / "keys")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    port = free_port()
    flags = [f"--addr=tcp://127.0.0.1:{port}"]
    for flag, name in (("tlscacert", AUTHORITY), ("tlscert", CERTIFICATE), ("tlskey", KEY)):
        flags.append(f"--{flag}={folder / name}")
    with native_buildkitd(folder, flags=flags):
        async with LoopThread.open() as loop, BuildkitChannel.open(loop, TlsDial("127.0.0.1", port, keys)) as channel:
            front = _Front(channel)
            listener = trio.socket.socket(socket.AF_UNIX)
            await listener.bind(str(folder / "docker.sock"))
            listener.listen()
            readiness, limits = Readiness(), ClientLimits()

            async def serve(connection: trio.socket.SocketType) -> None:
                await serve_connection(connection, front.handle, lambda: _FACTS, readiness, limits)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(readiness.run)
                nursery.start_soon(lambda: accept_connections(listener, serve, nursery, name="test"))
                yield f"unix://{folder / 'docker.sock'}", front
                nursery.cancel_scope.cancel()


async def test_buildx_builds_through_the_wire(tmp_path: Path) -> None:
    buildx = gotools.buildx()
    if buildx is None:
        pytest.skip("there is no Go to build it with")
    context = tmp_path / "context"
    context.mkdir()
    shutil.copy("/bin/busybox", context / "busybox")
    (context / "large").write_bytes(os.urandom(1 << 20) * 16)
    (context / "Dockerfile").write_text(_DOCKERFILE)
    # The trailers of a failed build carry the Dockerfile: more than grpcio takes by default.
    (context / "Failing").write_text("# " + "x" * 40_000 + _FAILING)
    (tmp_path / "word").write_text("secret")
    async with _served(tmp_path) as (host, front):

        async def build(*arguments: str) -> subprocess.CompletedProcess[bytes]:
            env = {**os.environ, "DOCKER_HOST": host, "HOME": str(tmp_path), "BUILDX_CONFIG": str(tmp_path / "buildx")}
            secret = ("--secret", f"id=word,src={tmp_path / 'word'}")
            command = [
                str(buildx),
                "build",
                "--progress=plain",
                "--provenance=false",
                *secret,
                *arguments,
                str(context),
            ]
            with trio.fail_after(120):
                return await trio.run_process(command, env=env, capture_stdout=True, capture_stderr=True, check=False)

        done = await build("-o", f"type=local,dest={tmp_path / 'out'}")
        assert done.returncode == 0, done.stderr.decode()
        summed = await trio.run_process(["sha256sum", str(context / "large")], capture_stdout=True)
        assert (tmp_path / "out/sum").read_text().split()[0] == summed.stdout.decode().split()[0]
        assert (tmp_path / "out/word").read_text() == "secret"
        assert b"counted" in done.stderr

        done = await build("-o", f"type=tar,dest={tmp_path / 'out.tar'}")
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr.count(b"CACHED") == 5
        with tarfile.open(tmp_path / "out.tar") as archive:
            assert sorted(archive.getnames()) == ["sum", "word"]

        failed = await build("-f", str(context / "Failing"), "-o", "type=cacheonly")
        assert failed.returncode == 1
        assert b"about to fail" in failed.stderr
        assert b"exit code: 7" in failed.stderr
        assert b">>> RUN" in failed.stderr  # The excerpt comes from the trailers.
        assert f"{CONTROL}Status" in front.methods

        # A client without the upgrade, whose session is a call on the same connection.
        front.methods.clear()
        buildctl = [str(gotools.buildctl()), "--addr", host, "build", "--frontend=dockerfile.v0", "--progress=plain"]
        given = [f"--local=context={context}", f"--local=dockerfile={context}", "--opt=target=base"]
        out = f"--output=type=local,dest={tmp_path / 'base'}"
        with trio.fail_after(60):
            await trio.run_process([*buildctl, *given, out, f"--secret=id=word,src={tmp_path / 'word'}"])
        assert (tmp_path / "base/large").stat().st_size == 16 << 20
        assert f"{CONTROL}Session" in front.methods
