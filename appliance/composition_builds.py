"""The part of the composition root that is about builds: BuildKit's wire, the door, and what a Solve needs."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from appliance.buildkit.portal import TrioPortal
from appliance.config import Config
from appliance.engine.builds.calls import BuildCalls, KnownWorkers
from appliance.engine.builds.contracts import Builders
from appliance.engine.builds.door import Door
from appliance.engine.builds.service import BuildConnections
from appliance.engine.builds.solve import SolveService
from appliance.engine.model.events import EventBus
from appliance.image.store import ImageStore
from tether.rpc.bridge import LoopThread


@dataclass(frozen=True, slots=True)
class BuildParts:
    """What a builder is connected to: the build loop, and the door that it reaches."""

    loop: LoopThread
    door: Door


@dataclass(frozen=True, slots=True)
class Buildkit:
    """Where builds happen, and what is known of it without a start."""

    builders: Builders
    workers: KnownWorkers


MakeBuildkit = Callable[[BuildParts], AbstractAsyncContextManager[Buildkit]]


@dataclass(frozen=True, slots=True)
class Builds:
    """What the routes of builds call."""

    connections: BuildConnections


@asynccontextmanager
async def builds_composed(
    config: Config, images: ImageStore, events: EventBus, make: MakeBuildkit
) -> AsyncIterator[Builds]:
    """Connect the objects of builds; they work until the block ends. `make` opens the builder."""
    door = Door(images)
    async with LoopThread.open() as loop, make(BuildParts(loop, door)) as buildkit, TrioPortal.open() as portal:
        solves = SolveService(buildkit.builders, door, images, events, door.manifest_digest, config.allow_registries)
        calls = BuildCalls(portal, buildkit.builders, solves, buildkit.workers)
        yield Builds(BuildConnections(loop, buildkit.builders, calls))
