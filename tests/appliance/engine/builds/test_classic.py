"""Builds of clients without BuildKit's API, with a buildkitd of the test."""

import asyncio
import base64
import io
import tarfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import msgspec
import pytest
import trio

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.forward import CONTROL
from appliance.buildkit.metadata import Metadata
from appliance.container.build_lines import BuildFailed, BuildLine
from appliance.container.build_request import BuilderFacts, BuildOutput, BuildRequest
from appliance.engine.builds.classic import ClassicBuilds, Solves
from appliance.engine.builds.context import ContextSpool
from appliance.errors import Conflict, InvalidParameter
from appliance.image.reference import parse_reference
from appliance.registry import Credentials
from protos.buildkit.v1 import control_pb2
from protos.buildkit.v1.control_pb2 import Bytes
from tests.appliance.buildkit.served import fake_channel
from tests.appliance.buildkit.sessions import session_behaviour
from tests.appliance.engine.builds.fakes import FakeBuilders
from tether.rpc.status import Code

_ID = "sha256:" + "0123456789ab" + "0" * 52
_DOCKERFILE = "FROM x\nLABEL a=b\nRUN true\n"


def _tar(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("ignore_file", ".dockerignore"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return out.getvalue()


async def _body(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


@dataclass
class _Buildkitd:
    """A Solve reads the context of its session, reports progress, and returns an image, or fails with `error`."""

    error: BuildkitError | None = None
    hangs: bool = False
    solve_message: Any = None
    context: bytes = b""
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    pulled: asyncio.Event = field(default_factory=asyncio.Event)
    begun: trio.Event = field(default_factory=trio.Event)
    running: bool = False
    loop: Any = None

    def behaviours(self) -> dict[str, Callable[[AsyncIterator[bytes], Any], Awaitable[None]]]:
        return {CONTROL + "Session": session_behaviour(self._pull), CONTROL + "Status": self._status}

    async def _pull(self, channel: grpc.aio.Channel, metadata: dict[str, list[str]]) -> None:
        await self.asked.wait()
        url = self.solve_message.frontend_attributes["context"]
        if name := url.removeprefix("http://buildkit-session"):
            pieces = channel.stream_stream("/moby.upload.v1.Upload/Pull")(metadata=(("urlpath", name),))
            self.context = b"".join([Bytes.FromString(piece).data async for piece in pieces])
        self.pulled.set()
        await asyncio.Event().wait()

    async def _status(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            break
        if self.solve_message is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such job")
        vertex = control_pb2.Vertex(digest="1", name="[2/2] RUN true")
        vertex.started.seconds = 1
        progress = control_pb2.Progress(vertexes=[vertex])
        progress.logs.add(vertex="1", stream=1, message=b"out\n")
        await context.write(progress.SerializeToString())

    async def solve(self, raw: bytes, metadata: Metadata = (), timeout: float | None = None) -> bytes:
        self.solve_message = message = control_pb2.Solve.FromString(raw)
        self.loop.loop.call_soon_threadsafe(self.asked.set)
        if self.hangs:
            self.begun.set()
            self.running = True
            try:
                await trio.sleep_forever()
            finally:
                self.running = False
        if message.frontend_attributes.get("context", "").startswith("http://buildkit-session"):
            await self.loop.run(self.pulled.wait)
        if self.error is not None:
            raise self.error
        return control_pb2.SolveAnswer(exporter_answer={"containerimage.digest": _ID}).SerializeToString()

    def result_name(self, reference: str) -> str:
        return ""


def check_types(buildkitd: _Buildkitd) -> Solves:
    """mypy: it is what the contract says."""
    return buildkitd


@asynccontextmanager
async def _builds(folder: Path, buildkitd: _Buildkitd) -> AsyncIterator[ClassicBuilds]:
    with trio.fail_after(20):
        async with fake_channel(buildkitd.behaviours()) as channel:
            buildkitd.loop = channel.loop
            builders = FakeBuilders(channel, running=True)
            yield ClassicBuilds(builders, buildkitd, ContextSpool(folder, 1 << 20), lambda: BuilderFacts(1 << 30))
            assert builders.users == 0
    assert list(folder.iterdir()) == []


async def _built(builds: ClassicBuilds, data: bytes = b"", *names: str, **given: Any) -> list[str]:
    """The lines of an answer, each as JSON."""
    lines: list[str] = []

    async def report(line: BuildLine) -> None:
        lines.append(msgspec.json.encode(line).decode())

    references = [parse_reference(name) for name in names]
    try:
        async with builds.open(BuildRequest(**given), references, {"r": Credentials("u", "p")}, _body(data)) as build:
            await build.run(report)
    except BuildFailed as error:
        lines.append(f"{error.code} {error}")
    return lines


async def test_the_text_of_a_build(tmp_path: Path) -> None:
    buildkitd = _Buildkitd()
    async with _builds(tmp_path, buildkitd) as builds:
        data = _tar(Dockerfile=_DOCKERFILE)
        assert await _built(builds, data, "a:1", "b:latest", buildargs={"X": "y"}) == [
            '{"stream":"Step 1/3 : FROM x\\n"}',
            '{"stream":"Step 2/3 : LABEL a=b\\n"}',
            '{"stream":"Step 3/3 : RUN true\\n"}',
            '{"stream":"out\\n"}',
            f'{{"aux":{{"ID":"{_ID}"}}}}',
            '{"stream":"Successfully built 0123456789ab\\n"}',
            '{"stream":"Successfully tagged a:1\\n"}',
            '{"stream":"Successfully tagged b:latest\\n"}',
        ]
        assert buildkitd.context == data
    message = buildkitd.solve_message
    attributes = dict(message.frontend_attributes)
    assert attributes.pop("context").startswith("http://buildkit-session/")
    assert attributes == {"filename": "Dockerfile", "image-resolve-mode": "default", "build-arg:X": "y"}
    assert dict(message.exporters[0].attributes) == {"name": "docker.io/library/a:1,docker.io/library/b:latest"}


@dataclass
class _Patient(_Buildkitd):
    """A Solve ends when the client gets the output of the build."""

    seen: trio.Event = field(default_factory=trio.Event)

    async def solve(self, raw: bytes, metadata: Metadata = (), timeout: float | None = None) -> bytes:
        answer = await super().solve(raw, metadata, timeout)
        await self.seen.wait()
        return answer


async def test_a_client_that_reads_slowly_gets_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.builds.classic._LAST_PROGRESS_SECONDS", 0.02)
    begun: list[str] = []
    ended: list[str] = []
    buildkitd = _Patient()

    async def report(line: BuildLine) -> None:
        begun.append(line.stream)
        if line.stream == "out\n":
            buildkitd.seen.set()
            await trio.sleep(0.2)
        ended.append(line.stream)

    async with _builds(tmp_path, buildkitd) as builds:
        async with builds.open(BuildRequest(), [], {}, _body(_tar(Dockerfile=_DOCKERFILE))) as build:
            await build.run(report)
    assert "out\n" in ended
    assert begun == ended


async def test_a_quiet_build(tmp_path: Path) -> None:
    async with _builds(tmp_path, _Buildkitd()) as builds:
        assert await _built(builds, _tar(Dockerfile=_DOCKERFILE), q=True) == [f'{{"stream":"{_ID}\\n"}}']
    buildkitd = _Buildkitd(BuildkitError(Code.UNKNOWN, "bad"))
    async with _builds(tmp_path, buildkitd) as builds:
        lines = await _built(builds, _tar(Dockerfile=_DOCKERFILE), q=True)
        assert lines[-2:] == ['{"stream":"out\\n"}', "0 bad"]


async def test_the_messages_of_version_2(tmp_path: Path) -> None:
    buildkitd = _Buildkitd()
    async with _builds(tmp_path, buildkitd) as builds:
        lines = await _built(builds, b"anything", version="2")
        trace = msgspec.json.decode(lines[0])
        assert trace["id"] == "moby.buildkit.trace"
        assert control_pb2.Progress.FromString(base64.b64decode(trace["aux"])).logs[0].message == b"out\n"
        assert lines[1:] == [f'{{"id":"moby.image.id","aux":{{"ID":"{_ID}"}}}}']
        assert buildkitd.context == b"anything"


async def test_the_context_of_a_client(tmp_path: Path) -> None:
    buildkitd = _Buildkitd()
    async with _builds(tmp_path, buildkitd) as builds:
        output = BuildOutput("local", {"dest": "x"})
        lines = await _built(builds, version="2", remote="client-session", session="s", outputs=[output])
        assert len(lines) == 1
        message = buildkitd.solve_message
        assert (message.session, message.exporters[0].type) == ("s", "local")
        assert "context" not in message.frontend_attributes
        await _built(builds, version="2", remote="client-session", session="s", outputs=[BuildOutput("cacheonly")])
        assert not buildkitd.solve_message.exporters


async def test_a_context_of_a_server(tmp_path: Path) -> None:
    buildkitd = _Buildkitd()
    async with _builds(tmp_path, buildkitd) as builds:
        await _built(builds, remote="https://example.com/x.git#main:sub")
        assert buildkitd.solve_message.frontend_attributes["context"] == "https://example.com/x.git#main:sub"


async def test_an_upload_in_a_request_of_its_own(tmp_path: Path) -> None:
    buildkitd = _Buildkitd()
    async with _builds(tmp_path, buildkitd) as builds, trio.open_nursery() as nursery:
        nursery.start_soon(builds.upload, "x", _body(b"uploaded"))
        await _built(builds, version="2", remote="upload-request", buildid="x")
        assert buildkitd.context == b"uploaded"


async def test_an_ignored_dockerfile(tmp_path: Path) -> None:
    buildkitd = _Buildkitd()
    async with _builds(tmp_path, buildkitd) as builds:
        await _built(builds, _tar(D=_DOCKERFILE, ignore_file="D"), dockerfile="D")
        attributes = buildkitd.solve_message.frontend_attributes
        assert (attributes["filename"], attributes["contextsubdir"]) == ("Dockerfile", "context")


async def test_failures(tmp_path: Path) -> None:
    buildkitd = _Buildkitd(BuildkitError(Code.UNKNOWN, "dockerfile parse error on line 1: x"))
    async with _builds(tmp_path, buildkitd) as builds:
        with pytest.raises(InvalidParameter, match=r"^dockerfile parse error on line 1: x$"):
            await _built(builds, _tar(Dockerfile="x"))
        buildkitd.error = BuildkitError(Code.UNKNOWN, "failed to solve: of vch.internal:5000/docker.io/library/x:1")
        assert (await _built(builds, b"", version="2"))[-1] == "0 of docker.io/library/x:1"
        with pytest.raises(InvalidParameter, match="more than the builder has"):
            await _built(builds, memory=2 << 30)
        with pytest.raises(InvalidParameter, match="Cannot locate specified Dockerfile"):
            await _built(builds, _tar(a=""))


async def test_a_build_that_another_client_cancels(tmp_path: Path) -> None:
    buildkitd = _Buildkitd(hangs=True)
    lines: list[str] = []
    async with _builds(tmp_path, buildkitd) as builds:

        async def build() -> None:
            lines.extend(await _built(builds, b"", version="2", buildid="x"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(build)
            await buildkitd.begun.wait()
            with pytest.raises(Conflict):
                await _built(builds, b"", version="2", buildid="x")
            builds.cancel("other")
            assert buildkitd.running
            builds.cancel("x")
        assert lines[-1] == "0 context canceled"
        assert not buildkitd.running


async def test_a_client_that_leaves(tmp_path: Path) -> None:
    buildkitd = _Buildkitd(hangs=True)
    async with _builds(tmp_path, buildkitd) as builds, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: _built(builds, b"", version="2"))
        nursery.cancel_scope.deadline = trio.current_time() + 0.2
    assert not buildkitd.running
