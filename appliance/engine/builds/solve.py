"""One build: from the client's request of Control/Solve to an image in the store."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import msgspec
import trio

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.metadata import Metadata
from appliance.buildkit.rewrite import FrontendRequest, SolvePlan, SolveRequest, rewrite_answer
from appliance.container.event import Event
from appliance.engine.builds.contracts import Builders, Uploads
from appliance.engine.builds.sources import (
    LocalImage,
    check_registries,
    local_caches,
    local_rules,
    registry_rules,
)
from appliance.engine.model.events import EventBus
from appliance.errors import InvalidParameter, VchError
from appliance.image.platform import OURS, Platform, parse_platform
from appliance.image.reference import Reference, tag_reference
from appliance.image.store import ImageRecord, ImageStore
from tether.rpc.status import Code

log = logging.getLogger(__name__)

SOLVE = "/moby.buildkit.v1.Control/Solve"
# A target of a bake file keeps its Solve until the targets that are made from it have ended, so this also bounds such a chain.
AT_ONCE = 64
WAITING = 100
# The image stores of Docker have no bound for names; an answer and its events do.
MOST_NAMES = 64


@dataclass(frozen=True, slots=True)
class _OpenSolve:
    """A Solve under way. `door` is "vch.internal:PORT", `local_names` are the full names of the images that it may take from there.

    `names` are the full names that its image gets.
    """

    door: str
    names: tuple[str, ...]
    local_names: frozenset[str]


class SolveSlots:
    """Bounds the Solves under way, and those that wait for their turn."""

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._limiter = trio.CapacityLimiter(at_once)
        self._waiting = waiting

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn. BuildkitError RESOURCE_EXHAUSTED when too many wait already."""
        if self._limiter.statistics().tasks_waiting >= self._waiting:
            raise BuildkitError(Code.RESOURCE_EXHAUSTED, f"too many builds: {self._waiting} wait already")
        async with self._limiter:
            yield


class SolveService:
    """`allowed`: the registries that builds may use; empty: all registries.

    `manifest_digest` returns the digest of the manifest that the door serves for an image; it may block. VchError if the door cannot.
    """

    def __init__(
        self,
        builders: Builders,
        uploads: Uploads,
        images: ImageStore,
        events: EventBus,
        manifest_digest: Callable[[ImageRecord], str],
        allowed: Sequence[str] = (),
    ) -> None:
        self._builders = builders
        self._uploads = uploads
        self._images = images
        self._events = events
        self._manifest_digest = manifest_digest
        self._allowed = allowed
        self._slots = SolveSlots()
        self._open: dict[str, _OpenSolve] = {}

    async def solve(self, raw: bytes, metadata: Metadata = (), timeout: float | None = None) -> bytes:
        """Answer a request of Control/Solve. It returns when the image is in the store, with its names, and its events are published.

        BuildkitError when buildkitd refuses or fails, another VchError when vchd does. A Solve that fails or is cancelled leaves no image.
        """
        # A request holds up to 16 MiB, and the policy has a rule for each local name: threads work on both.
        request = await trio.to_thread.run_sync(SolveRequest.parse_untrusted, raw)
        facts = request.facts
        check_registries(facts.registries, self._allowed)
        if len(facts.names) > MOST_NAMES:
            raise InvalidParameter(f"a build cannot have more than {MOST_NAMES} tags")
        names = [tag_reference(name) for name in facts.names]
        full_names = tuple(f"{one.name}:{one.tag}" for one in names)
        async with self._slots.take(), self._builders.use() as lease, self._uploads.open() as upload:
            images = [] if facts.forces_pull else self._local_images(facts.platforms)
            upstream, local_names = await trio.to_thread.run_sync(self._rewrite, request, images, lease.door, upload.id)
            with self._opened(facts.reference, _OpenSolve(lease.door, full_names, local_names)):
                answer = await lease.channel.call(SOLVE, upstream, metadata=metadata, timeout=timeout)
                if not facts.exports_image:
                    return answer
                pushed = await upload.finish()
                with trio.CancelScope(shield=True):
                    await self._publish(pushed.image_id, names)
        return await trio.to_thread.run_sync(rewrite_answer, answer, pushed.image_id, full_names)

    def rewrite_frontend(self, raw: bytes, reference: str) -> bytes:
        """A request of LLBBridge/Solve within the Solve of this reference. It may be called in any thread.

        InvalidParameter or Forbidden for caches that the build may not use.
        """
        request = FrontendRequest.parse_untrusted(raw)
        # Also for a reference that is not known: buildkitd lets such a request wait for its Solve.
        check_registries(request.cache_imports, self._allowed)
        solve = self._open.get(reference)
        caches = local_caches(request.cache_imports, solve.local_names, solve.door) if solve is not None else {}
        return request.rewritten(caches)

    def result_name(self, reference: str) -> str:
        """What users see instead of the name under which the build of this reference pushes its image; "" if it has no name."""
        solve = self._open.get(reference)
        return ", ".join(solve.names) if solve is not None else ""

    @contextmanager
    def _opened(self, reference: str, solve: _OpenSolve) -> Iterator[None]:
        if reference in self._open:
            # buildkitd refuses a second build with a reference; the first build stays known.
            yield
            return
        self._open[reference] = solve
        try:
            yield
        finally:
            del self._open[reference]

    def _local_images(self, platforms: Sequence[str]) -> list[ImageRecord]:
        """The images that may replace those of registries in a build for these platforms, the latest first."""
        wanted = _platform(platforms)
        if wanted is None:
            return []
        images = [
            one
            for one in self._images.all()
            if (one.references or one.digests) and wanted.fits(self._images.config(one.id).platform)
        ]
        images.sort(key=lambda record: record.tagged, reverse=True)
        # Copies of the lists: a thread reads them.
        return [msgspec.structs.replace(one, references=[*one.references], digests=[*one.digests]) for one in images]

    def _rewrite(
        self, request: SolveRequest, records: list[ImageRecord], door: str, upload: str
    ) -> tuple[bytes, frozenset[str]]:
        """The request for buildkitd, and the full names of the images that the build may take from the door. In a thread."""
        images = [found for one in records if (found := self._local_image(one)) is not None]
        names = frozenset(name for one in images for name in one.names)
        rules = [*local_rules(images, door), *registry_rules(self._allowed, door)]
        caches = local_caches(request.facts.cache_imports, names, door)
        return request.rewritten(SolvePlan(door, upload, rules, caches)), names

    def _local_image(self, record: ImageRecord) -> LocalImage | None:
        """An image as a source; None if the door cannot serve it. May block."""
        try:
            manifest = self._manifest_digest(record) if record.digests else ""
        except VchError as error:
            log.warning("builds do not see the local image %s: %s", record.id, error)
            return None
        return LocalImage(record.references, record.digests, manifest)

    async def _publish(self, image_id: str, names: Sequence[Reference]) -> None:
        """Give the image its names, and report them, as dockerd does (ImageExportedByBuildkit, TagImage)."""
        record = self._images.get(image_id)
        self._events.publish(Event("image", "create", image_id, {"name": image_id}))
        for reference in names:
            await self._images.tag(record, reference, time.time())
            self._events.publish(Event("image", "tag", image_id, {"name": str(reference)}))


def _platform(platforms: Sequence[str]) -> Platform | None:
    """The platform of a build; None for several platforms, or if buildkitd will refuse it."""
    if not platforms:
        return OURS
    try:
        return parse_platform(platforms[0]) if len(platforms) == 1 else None
    except InvalidParameter:
        return None
