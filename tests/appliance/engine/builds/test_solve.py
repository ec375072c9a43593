"""One Solve: what buildkitd gets, what becomes of its image, what is left when it fails. buildkitd, machine and door are fakes."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.errors import BuildkitError
from appliance.container.event import Event
from appliance.engine.builds.contracts import BuilderLease, PushedImage
from appliance.engine.builds.solve import SOLVE, SolveService, SolveSlots
from appliance.engine.model.events import EventBus
from appliance.errors import Forbidden, InvalidParameter, NotFound, ProtocolError
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore
from protos.buildkit.v1 import control_pb2, gateway_pb2, policy_pb2
from tests.appliance.buildkit.served import fake_channel
from tests.appliance.image.test_pull import opened_store
from tether.rpc.status import Code

DOOR = "vch.internal:4711"
D1, M1 = "sha256:" + "1" * 64, "sha256:" + "a" * 64


def config(comment: str, architecture: str = "amd64") -> bytes:
    """The config of an image without layers."""
    rootfs = {"type": "layers", "diff_ids": []}
    return json.dumps({"os": "linux", "architecture": architecture, "comment": comment, "rootfs": rootfs}).encode()


@dataclass
class Buildkitd:
    """Records requests and metadata; answers with `answer`, or fails with `error`, after `go` is set."""

    requests: list[control_pb2.Solve] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    blocks: bool = False
    arrived: trio.Event = field(default_factory=trio.Event)
    token: Any = None

    async def solve(self, requests: AsyncIterator[bytes], context: Any) -> None:
        async for raw in requests:
            self.requests.append(control_pb2.Solve.FromString(raw))
        self.metadata.update(context.invocation_metadata())
        self.token.run_sync_soon(self.arrived.set)
        if self.blocks:
            await asyncio.sleep(1000)
        if self.error:
            await context.abort(grpc.StatusCode.UNKNOWN, self.error)
        await context.write(control_pb2.SolveAnswer(exporter_answer={"a": "b"}).SerializeToString())


@dataclass
class Parts:
    """The fakes that a Solve uses. `pushed` is the config that buildkitd pushes, None if it pushes nothing."""

    channel: BuildkitChannel
    store: ImageStore
    pushed: bytes | None = None
    leases: int = 0
    uploads: int = 0
    running: bool = True

    @asynccontextmanager
    async def use(self) -> AsyncIterator[BuilderLease]:
        self.leases += 1
        try:
            yield BuilderLease(self.channel, DOOR)
        finally:
            self.leases -= 1

    def open(self) -> AbstractAsyncContextManager["FakeUpload"]:
        return self._upload()

    @asynccontextmanager
    async def _upload(self) -> AsyncIterator["FakeUpload"]:
        self.uploads += 1
        try:
            yield FakeUpload(self)
        finally:
            self.uploads -= 1


@dataclass
class FakeUpload:
    parts: Parts
    id: str = "0a1b"

    async def finish(self) -> PushedImage:
        if self.parts.pushed is None:
            raise ProtocolError("BuildKit pushed no image")
        record = await self.parts.store.add_image(self.parts.pushed)
        return PushedImage(record.id, 0)


@dataclass
class House:
    solves: SolveService
    buildkitd: Buildkitd
    parts: Parts
    store: ImageStore
    events: EventBus

    @property
    def request(self) -> control_pb2.Solve:
        return self.buildkitd.requests[-1]

    def conversions(self) -> dict[str, str]:
        rules = self.request.source_policy.rules
        return {
            rule.selector.identifier.removeprefix("docker-image://"): rule.updates.identifier
            for rule in rules
            if rule.action == policy_pb2.CONVERT
        }


@asynccontextmanager
async def house(tmp_path: Path, allowed: tuple[str, ...] = ()) -> AsyncIterator[House]:
    buildkitd = Buildkitd(token=trio.lowlevel.current_trio_token())
    async with opened_store(tmp_path) as store, fake_channel({SOLVE: buildkitd.solve}) as channel:
        parts, events = Parts(channel, store), EventBus()

        def manifest_digest(record: ImageRecord) -> str:
            if record.digests[0].startswith("docker.io/library/damaged@"):
                raise NotFound("a layer is damaged")
            return M1

        yield House(
            SolveService(parts, parts, store, events, manifest_digest, allowed), buildkitd, parts, store, events
        )
        assert (parts.leases, parts.uploads) == (0, 0)


async def _add(store: ImageStore, name: str, architecture: str = "amd64", tagged: float = 1.0) -> ImageRecord:
    record = await store.add_image(config(name, architecture))
    reference = parse_reference(name)
    await store.tag(record, reference, tagged, reference.digest)
    return record


def moby(name: str = "", **fields: Any) -> bytes:
    exporter = control_pb2.Exporter(type="moby", attributes={"name": name})
    return control_pb2.Solve(ref="r", exporters=[exporter], **fields).SerializeToString()


async def test_the_image_is_in_the_store_with_its_names_and_events_when_the_client_gets_its_answer(
    tmp_path: Path,
) -> None:
    async with house(tmp_path) as h:
        old = await _add(h.store, "x:1")
        h.parts.pushed = config("new")
        answer = await h.solves.solve(moby("x:1,r.example/y"), [("traceparent", "t")])
        record = h.store.get("x:1")
        assert record is h.store.get("r.example/y") is not old
        assert old.references == []
        assert control_pb2.SolveAnswer.FromString(answer).exporter_answer == {
            "a": "b",
            "containerimage.digest": record.id,
            "containerimage.config.digest": record.id,
            "image.name": "docker.io/library/x:1,r.example/y:latest",
        }
        past: list[Event] = h.events.past(0)
        assert [(event.action, event.attributes["name"]) for event in past] == [
            ("create", record.id),
            ("tag", "x:1"),
            ("tag", "r.example/y:latest"),
        ]
        assert {event.id for event in past} == {record.id}
        assert h.request.exporters[0].attributes["name"] == f"{DOOR}/build/0a1b:latest"
        assert h.buildkitd.metadata["traceparent"] == "t"


async def test_a_build_without_an_image_gets_the_answer_of_buildkitd(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        answer = await h.solves.solve(control_pb2.Solve(ref="r").SerializeToString())
        assert control_pb2.SolveAnswer.FromString(answer).exporter_answer == {"a": "b"}
        assert h.events.past(0) == []


async def test_a_build_that_fails_leaves_no_image_and_the_clients_text(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        h.parts.pushed, h.buildkitd.error = config("new"), "process did not complete: exit code: 3"
        with pytest.raises(BuildkitError, match="exit code: 3") as caught:
            await h.solves.solve(moby("x"))
        assert caught.value.code is Code.UNKNOWN
        assert h.store.all() == []
        h.buildkitd.error, h.parts.pushed = "", None
        with pytest.raises(ProtocolError, match="pushed no image"):
            await h.solves.solve(moby("x"))
        assert h.events.past(0) == []


async def test_a_client_that_leaves_cancels_its_build(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        h.buildkitd.blocks = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(h.solves.solve, moby("x"))
            await h.buildkitd.arrived.wait()
            assert (h.parts.leases, h.parts.uploads) == (1, 1)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("name", ["UPPER", "x@sha256:" + "1" * 64, ",".join(f"x:{n}" for n in range(65)), "a b"])
async def test_names_that_no_image_can_have_are_refused_before_the_build(tmp_path: Path, name: str) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(InvalidParameter):
            await h.solves.solve(moby(name))
        assert h.buildkitd.requests == []


async def test_local_images_of_the_platform_replace_those_of_registries_the_latest_first(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await _add(h.store, "old:1", tagged=1.0)
        await _add(h.store, "arm:1", "arm64", tagged=3.0)
        await _add(h.store, f"pulled:1@{D1}", tagged=2.0)
        plain = control_pb2.Solve(ref="r").SerializeToString()
        await h.solves.solve(plain)
        at_door = f"docker-image://{DOOR}/docker.io/library"
        assert list(h.conversions().items()) == [
            ("docker.io/library/pulled:1", f"{at_door}/pulled:1"),
            (f"docker.io/library/pulled@{D1}", f"{at_door}/pulled@{M1}"),
            (f"docker.io/library/pulled:1@{D1}", f"{at_door}/pulled@{M1}"),
            ("docker.io/library/old:1", f"{at_door}/old:1"),
        ]
        for attributes, found in (
            ({"platform": "linux/arm64"}, ["docker.io/library/arm:1"]),
            ({"platform": "linux/arm64,linux/amd64"}, []),
            ({"platform": "no/such"}, []),
            ({"image-resolve-mode": "pull"}, []),
        ):
            await h.solves.solve(control_pb2.Solve(ref="r", frontend_attributes=attributes).SerializeToString())
            assert list(h.conversions()) == found


async def test_an_image_that_the_door_cannot_serve_does_not_break_builds(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await _add(h.store, f"damaged:1@{D1}")
        await _add(h.store, "whole:1")
        await h.solves.solve(control_pb2.Solve(ref="r").SerializeToString())
        assert list(h.conversions()) == ["docker.io/library/whole:1"]


async def test_other_registries_than_the_allowed_ones_are_denied(tmp_path: Path) -> None:
    async with house(tmp_path, ("docker.io",)) as h:
        await _add(h.store, "x:1")
        entry = control_pb2.CacheEntry(type="registry", attributes={"ref": "evil.example/x"})
        with pytest.raises(Forbidden, match=r"registry evil\.example is not allowed"):
            await h.solves.solve(control_pb2.Solve(cache=control_pb2.Cache(exports=[entry])).SerializeToString())
        await h.solves.solve(control_pb2.Solve(ref="r").SerializeToString())
        rules = h.request.source_policy.rules
        assert [rule.action for rule in rules] == [
            policy_pb2.CONVERT,
            *(2 * [policy_pb2.DENY]),
            *(4 * [policy_pb2.ALLOW]),
        ]


async def test_the_frontend_of_an_open_build_gets_local_caches_from_the_door(tmp_path: Path) -> None:
    async with house(tmp_path, ("docker.io",)) as h:
        await _add(h.store, "x:1")

        def frontend(*references: str) -> bytes:
            entries = [control_pb2.CacheEntry(type="registry", attributes={"ref": one}) for one in references]
            return gateway_pb2.FrontendSolve(cache_imports=entries).SerializeToString()

        assert h.solves.rewrite_frontend(frontend("x:1"), "r") == frontend("x:1")
        # buildkitd lets a request wait for its Solve.
        with pytest.raises(Forbidden, match=r"registry evil\.example is not allowed"):
            h.solves.rewrite_frontend(frontend("evil.example/x"), "later")
        h.buildkitd.blocks = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(h.solves.solve, moby("n:1"))
            await h.buildkitd.arrived.wait()
            at_door = f"{DOOR}/docker.io/library/x:1"
            assert h.solves.rewrite_frontend(frontend("x:1", "y"), "r") == frontend(at_door, "y")
            with pytest.raises(Forbidden):
                h.solves.rewrite_frontend(frontend("evil.example/x"), "r")
            with pytest.raises(InvalidParameter):
                h.solves.rewrite_frontend(frontend(at_door), "r")
            assert h.solves.result_name("r") == "docker.io/library/n:1"
            assert h.solves.result_name("other") == ""
            nursery.cancel_scope.cancel()
        assert h.solves.result_name("r") == ""


async def test_builds_beyond_a_bound_wait_and_beyond_another_are_refused() -> None:
    slots = SolveSlots(at_once=1, waiting=1)
    ended: list[int] = []

    async def build(number: int) -> None:
        async with slots.take():
            ended.append(number)

    async with trio.open_nursery() as nursery:
        async with slots.take():
            nursery.start_soon(build, 1)
            await wait_all_tasks_blocked()
            with pytest.raises(BuildkitError, match="too many builds") as caught:
                await build(2)
            assert caught.value.code is Code.RESOURCE_EXHAUSTED
            assert ended == []
    assert ended == [1]
