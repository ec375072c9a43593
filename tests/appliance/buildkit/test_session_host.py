"""A session of vchd, as buildkitd uses it."""

import asyncio
import io
import tarfile
from pathlib import Path

import grpc
import grpc.aio
import trio

from appliance.buildkit.budget import ByteBudget
from appliance.buildkit.forward import CONTROL
from appliance.buildkit.session_host import HostedSession
from appliance.registry import Credentials
from protos.buildkit.v1.control_pb2 import Bytes
from protos.buildkit.v1.session_pb2 import CredentialsAnswer, CredentialsRequest
from tests.appliance.buildkit.served import fake_channel
from tests.appliance.buildkit.sessions import session_behaviour

_AUTH = "/moby.filesync.v1.Auth/"
_PULL = "/moby.upload.v1.Upload/Pull"


async def test_services(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    (tmp_path / "context").write_bytes(content)
    found: list[object] = []

    async def ask(channel: grpc.aio.Channel, metadata: dict[str, list[str]]) -> None:
        found.append(metadata["x-docker-expose-session-uuid"])
        found.append(metadata["x-docker-expose-session-grpc-method"])
        for host in ("r", "token", "unknown"):
            answer = await channel.unary_unary(_AUTH + "Credentials")(CredentialsRequest(host=host).SerializeToString())
            known = CredentialsAnswer.FromString(answer)
            found.append((known.user, known.secret))
        found.append(await channel.unary_unary("/grpc.health.v1.Health/Check")(b""))
        pieces = channel.stream_stream(_PULL)(metadata=(("urlpath", "/context"),))
        found.append(b"".join([Bytes.FromString(piece).data async for piece in pieces]) == content)
        pieces = channel.stream_stream(_PULL)(metadata=(("urlpath", "/pax"),))
        tar = b"".join([Bytes.FromString(piece).data async for piece in pieces])
        # BuildKit reads the first KiB alone to see whether this is an archive.
        for part in (tar[:1024], tar):
            with tarfile.open(fileobj=io.BytesIO(part)) as archive:
                first = archive.next()
                found.append((first and first.name, part == tar and archive.getnames()))
        for method, path in ((_PULL, "/other"), (_AUTH + "FetchToken", "")):
            try:
                await channel.stream_stream(method)(metadata=(("urlpath", path),)).read()
            except grpc.aio.AioRpcError as error:
                found.append(error.code())
        over.set()

    over = asyncio.Event()
    known = {"r": Credentials("user", "secret"), "token": Credentials("", "", "identity")}
    with trio.fail_after(20):
        async with fake_channel({CONTROL + "Session": session_behaviour(ask)}) as channel:
            with tarfile.open(tmp_path / "pax", "w") as archive:
                archive.addfile(tarfile.TarInfo("n" * 200))
            uploads = {"/context": tmp_path / "context", "/pax": tmp_path / "pax"}
            async with HostedSession.open(channel, ByteBudget(), credentials=known, uploads=uploads) as session:
                await channel.loop.run(over.wait)
    assert found == [
        [session.id],
        [_AUTH + "Credentials", _PULL, "/grpc.health.v1.Health/Check"],
        ("user", "secret"),
        ("", "identity"),
        ("", ""),
        b"\x08\x01",
        True,
        (".", False),
        (".", [".", "n" * 200]),
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
    ]


async def test_the_end_of_the_block_ends_the_session() -> None:
    ended = asyncio.Event()

    async def wait(channel: grpc.aio.Channel, metadata: dict[str, list[str]]) -> None:
        try:
            await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    began = asyncio.Event()
    with trio.fail_after(20):
        async with fake_channel({CONTROL + "Session": session_behaviour(wait)}) as channel:
            async with HostedSession.open(channel, ByteBudget(), credentials={}, uploads={}):
                await channel.loop.run(began.wait)
            await channel.loop.run(ended.wait)


async def test_a_session_that_buildkitd_refuses() -> None:
    async with fake_channel({}) as channel:
        async with HostedSession.open(channel, ByteBudget(), credentials={}, uploads={}):
            await trio.sleep(0.05)
