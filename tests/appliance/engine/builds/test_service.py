"""A build client at one end, a fake buildkitd at the other, and between them the connections and calls of vchd: grpcio is the client."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import trio

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.dial import Target
from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.forward import CONTROL
from appliance.buildkit.portal import TrioPortal
from appliance.engine.builds.calls import BuildCalls
from appliance.engine.builds.contracts import BuilderLease
from appliance.engine.builds.service import BuildConnections
from appliance.engine.builds.solve import SOLVE, SolveService
from appliance.engine.model.events import EventBus
from appliance.errors import InvalidParameter, Unavailable
from appliance.image.store import ImageRecord
from protos.buildkit.v1 import control_pb2, gateway_pb2
from protos.tether.v1 import status_pb2
from tests.appliance.buildkit.served import Behaviour, echo, fake_buildkitd
from tests.appliance.engine.builds.test_solve import DOOR, M1, Parts, config, moby
from tests.appliance.image.test_pull import opened_store
from tether.rpc.bridge import LoopThread
from tether.rpc.status import Code

BASE = f"{DOOR}/docker.io/library/busybox:1"
FRONTEND = "/moby.buildkit.v1.frontend.LLBBridge/Solve"


@dataclass
class CountingBuilders(Parts):
    """Counts the starts of buildkitd; `refusal` is why it cannot be started."""

    starts: int = 0
    refusal: str = ""

    @asynccontextmanager
    async def use(self) -> AsyncIterator[BuilderLease]:
        if self.refusal:
            raise Unavailable(self.refusal)
        self.starts += 1
        async with super().use() as lease:
            yield lease


class Workers:
    def workers(self) -> bytes:
        return b"known workers"

    def info(self) -> bytes:
        return b"known info"


@dataclass
class House:
    connections: BuildConnections
    builders: CountingBuilders
    loop: LoopThread
    client: BuildkitChannel
    seen: list[bytes] = field(default_factory=list)


class ListeningDial:
    """Each connection is served as one of /grpc."""

    def __init__(self, connections: BuildConnections, folder: Path, nursery: trio.Nursery) -> None:
        self._connections = connections
        self._path = str(folder / "grpc")
        self._nursery = nursery

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Target]:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._path)
        listener.listen()
        listener.setblocking(False)
        with trio.socket.from_stdlib_socket(listener) as accepting:
            self._nursery.start_soon(self._accept, accepting)
            yield Target(f"unix:{self._path}")
            self._nursery.cancel_scope.cancel()

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        while True:
            connection, _ = await listener.accept()
            self._nursery.start_soon(self._serve, socket.socket(fileno=connection.detach()))

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        async with self._connections.grpc() as carrier:
            await carrier.carry(connection, b"")


@asynccontextmanager
async def house(tmp_path: Path, behaviours: dict[str, Behaviour]) -> AsyncIterator[House]:
    """A client of /grpc. The fake buildkitd has these methods."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened_store(tmp_path))
        loop = await stack.enter_async_context(LoopThread.open())
        dial = await stack.enter_async_context(fake_buildkitd(loop, behaviours))
        channel = await stack.enter_async_context(BuildkitChannel.open(loop, dial))
        portal = await stack.enter_async_context(TrioPortal.open())
        builders = CountingBuilders(channel, store)
        builders.pushed = config("pushed")

        def manifest_digest(record: ImageRecord) -> str:
            return M1

        solves = SolveService(builders, builders, store, EventBus(), manifest_digest)
        connections = BuildConnections(loop, builders, BuildCalls(portal, builders, solves, Workers()))
        nursery = await stack.enter_async_context(trio.open_nursery())
        client = await stack.enter_async_context(
            BuildkitChannel.open(loop, ListeningDial(connections, tmp_path, nursery))
        )
        yield House(connections, builders, loop, client)
        nursery.cancel_scope.cancel()
    assert (builders.leases, builders.uploads) == (0, 0)


def answers(*messages: bytes) -> Behaviour:
    async def behave(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            pass
        for message in messages:
            await context.write(message)

    return behave


async def test_a_solve_goes_through_the_engine(tmp_path: Path) -> None:
    answer = control_pb2.SolveAnswer(exporter_answer={"a": "b"}).SerializeToString()
    async with house(tmp_path, {SOLVE: answers(answer)}) as h:
        raw = await h.client.call(SOLVE, moby("x:1"), metadata=[("traceparent", "t")])
        image = h.builders.store.get("x:1")
        assert control_pb2.SolveAnswer.FromString(raw).exporter_answer["containerimage.digest"] == image.id
        with pytest.raises(BuildkitError, match="invalid reference format") as caught:
            await h.client.call(SOLVE, moby("UPPER"))
        assert caught.value.code is Code.INVALID_ARGUMENT


async def test_workers_are_known_without_a_start(tmp_path: Path) -> None:
    async with house(tmp_path, {}) as h:
        # Lists of builders have a deadline.
        assert await h.client.call(f"{CONTROL}ListWorkers", b"", timeout=20) == b"known workers"
        assert await h.client.call(f"{CONTROL}Info", b"") == b"known info"
        assert h.builders.starts == 0
        with pytest.raises(BuildkitError) as caught:
            await h.client.call("/containerd.services.content.v1.Content/Delete", b"")
        assert caught.value.code is Code.UNIMPLEMENTED
        assert h.builders.starts == 0


async def test_a_client_that_begins_to_build_gets_a_builder_that_stays_while_the_connection_does(
    tmp_path: Path,
) -> None:
    async with house(tmp_path, {}) as h:
        h.builders.refusal = "the builder image is not here"
        with pytest.raises(BuildkitError, match="the builder image is not here"):
            await h.client.call(f"{CONTROL}ListWorkers", b"")
        h.builders.refusal = ""
        for _ in range(2):
            assert await h.client.call(f"{CONTROL}ListWorkers", b"") == b"known workers"
            assert (h.builders.starts, h.builders.leases) == (1, 1)


async def test_other_methods_pass_and_each_call_has_a_lease(tmp_path: Path) -> None:
    async with house(tmp_path, {f"{CONTROL}DiskUsage": echo}) as h:
        assert await h.client.call(f"{CONTROL}DiskUsage", b"\x01\xff") == b"\x01\xff"
        assert h.builders.starts == 1
        with trio.fail_after(10):
            while h.builders.leases:
                await trio.lowlevel.checkpoint()
        h.builders.refusal = "the builder image is not here"
        with pytest.raises(BuildkitError, match="the builder image is not here") as caught:
            await h.client.call(f"{CONTROL}DiskUsage", b"")
        assert caught.value.code is Code.UNAVAILABLE


async def test_progress_and_history_have_the_names_of_the_user(tmp_path: Path) -> None:
    progress = control_pb2.Progress(vertexes=[control_pb2.Vertex(name=f"FROM {BASE}")]).SerializeToString()
    record = control_pb2.HistoryRecord(frontend_attributes={"a": BASE})
    event = control_pb2.HistoryEvent(record=record).SerializeToString()
    behaviours = {f"{CONTROL}Status": answers(progress), f"{CONTROL}ListenBuildHistory": answers(event)}
    async with house(tmp_path, behaviours) as h:
        for method, request in (
            ("Status", control_pb2.StatusRequest(ref="r").SerializeToString()),
            ("ListenBuildHistory", b""),
        ):
            async with h.client.stream(CONTROL + method, request) as stream:
                [message] = await stream.receive()
                assert b"docker.io/library/busybox:1" in message
                assert b"vch.internal" not in message
                assert await stream.receive() == []


@pytest.mark.parametrize("path", [SOLVE, f"{CONTROL}Prune", FRONTEND])
async def test_errors_of_buildkitd_have_the_names_of_the_user(tmp_path: Path, path: str) -> None:
    detail = status_pb2.Detail(type_url="type.googleapis.com/x", value=b"\x01")
    details = status_pb2.Status(code=5, message=f"no {BASE}", details=[detail]).SerializeToString()

    async def fail(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            pass
        await context.abort(grpc.StatusCode.NOT_FOUND, f"no {BASE}", (("grpc-status-details-bin", details),))

    async with house(tmp_path, {path: fail}) as h:
        with pytest.raises(BuildkitError) as caught:
            await h.client.call(path, b"")
        assert (caught.value.code, caught.value.text) == (Code.NOT_FOUND, "no docker.io/library/busybox:1")
        status = status_pb2.Status.FromString(caught.value.details)
        assert (status.message, list(status.details)) == ("no docker.io/library/busybox:1", [detail])


async def test_the_frontend_names_its_build_by_metadata(tmp_path: Path) -> None:
    answer = control_pb2.SolveAnswer().SerializeToString()
    arrived: list[bytes] = []
    during: list[Callable[[], Awaitable[None]]] = []

    async def solve(requests: AsyncIterator[bytes], context: Any) -> None:
        async for _ in requests:
            pass
        for step in during:
            await step()
        await context.write(answer)

    async def frontend(requests: AsyncIterator[bytes], context: Any) -> None:
        async for message in requests:
            arrived.append(message)
            await context.write(b"")

    entry = control_pb2.CacheEntry(type="registry", attributes={"ref": "x:1"})
    request = gateway_pb2.FrontendSolve(cache_imports=[entry]).SerializeToString()
    async with house(tmp_path, {SOLVE: solve, FRONTEND: frontend}) as h:
        await h.client.call(SOLVE, moby("x:1"))

        async def ask() -> None:
            # On the build loop, while the Solve is open.
            call = h.client.start(FRONTEND, [("buildkit-controlapi-buildid", "r")])
            await call.write(request)
            await call.done_writing()
            assert await call.read() == b""

        during.append(ask)
        await h.client.call(SOLVE, moby("y:1"))
        await h.client.call(FRONTEND, request)
    at_door = control_pb2.CacheEntry(type="registry", attributes={"ref": f"{DOOR}/docker.io/library/x:1"})
    assert arrived == [gateway_pb2.FrontendSolve(cache_imports=[at_door]).SerializeToString(), request]


async def test_a_session_is_carried_to_buildkitd_with_its_headers(tmp_path: Path) -> None:
    metadata: list[tuple[str, str]] = []

    async def session(requests: AsyncIterator[bytes], context: Any) -> None:
        metadata.extend(context.invocation_metadata())
        async for message in requests:
            await context.write(message)

    headers = {
        "x-docker-expose-session-uuid": "u",
        "x-docker-expose-session-grpc-method": "/a,/b",
    }
    async with house(tmp_path, {f"{CONTROL}Session": session}) as h:
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)

        async def carry() -> None:
            async with h.connections.session(headers) as carrier:
                assert h.builders.leases == 1
                await carrier.carry(theirs, b"early")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(carry)
            client = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
            received = b""
            await client.send_all(b" late")
            while len(received) < len(b"early late"):
                received += await client.receive_some()
            assert received == b"early late"
            await client.aclose()
        exposed = [(name, value) for name, value in metadata if name.startswith("x-docker-expose")]
        assert sorted(exposed) == [
            ("x-docker-expose-session-grpc-method", "/a"),
            ("x-docker-expose-session-grpc-method", "/b"),
            ("x-docker-expose-session-uuid", "u"),
        ]
        h.builders.refusal = "no builder"
        with pytest.raises(Unavailable, match="no builder"):
            async with h.connections.session({}):
                pass
        with pytest.raises(InvalidParameter, match="malformed header of the session"):
            async with h.connections.session({"x-docker-expose-session-na!me": "x"}):
                pass


async def test_connections_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.engine.builds.service.MOST_CONNECTIONS", 1)
    monkeypatch.setattr("appliance.engine.builds.service.MOST_SESSIONS", 1)
    async with house(tmp_path, {}) as h:
        # That of the client.
        async with h.connections.session({}):
            with pytest.raises(Unavailable, match="too many sessions"):
                async with h.connections.session({}):
                    pass
        async with h.connections.grpc():
            with pytest.raises(Unavailable, match="too many connections"):
                async with h.connections.grpc():
                    pass
