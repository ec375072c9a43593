"""The part of the composition root that is about builds: BuildKit's wire, the builder machine, the door, and what a Solve needs."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from appliance.api.backend import BuildCacheBackend
from appliance.buildkit.portal import TrioPortal
from appliance.config import Config
from appliance.container.build_request import BuilderFacts
from appliance.engine.builds.builder_container import BuilderContainer, ContainerServices
from appliance.engine.builds.builder_files import RegistryRules
from appliance.engine.builds.cache import BuildCache
from appliance.engine.builds.calls import BuildCalls, KnownWorkers
from appliance.engine.builds.classic import ClassicBuilds
from appliance.engine.builds.context import ContextSpool
from appliance.engine.builds.contracts import Builders
from appliance.engine.builds.door import Door
from appliance.engine.builds.machine import BuilderMachine, MachineSettings
from appliance.engine.builds.service import BuildConnections
from appliance.engine.builds.solve import SolveService
from appliance.engine.model.events import EventBus
from appliance.engine.networking.networks import Networks
from appliance.engine.transfers import Transfers
from appliance.engine.volumes import Volumes
from appliance.image.store import ImageStore
from appliance.registry import Proxies
from appliance.store import Database
from tether.rpc.bridge import LoopThread


@dataclass(frozen=True, slots=True)
class BuildParts:
    """What a builder is connected to: the build loop, and the door that it reaches."""

    loop: LoopThread
    door: Door


@dataclass(frozen=True, slots=True)
class Buildkit:
    """Where builds happen, and what is known of it without a start. `facts` are for `docker info`.

    `limits` returns what classic builds are compared with, `has_cache` whether there ever was a cache.
    """

    builders: Builders
    workers: KnownWorkers
    cache: BuildCacheBackend | None = None
    facts: Callable[[], dict[str, str]] = dict
    limits: Callable[[], BuilderFacts] = BuilderFacts
    has_cache: Callable[[], bool] = lambda: True


MakeBuildkit = Callable[[BuildParts], AbstractAsyncContextManager[Buildkit]]


@dataclass(frozen=True, slots=True)
class Builds:
    """What the routes of builds call."""

    connections: BuildConnections
    classic: ClassicBuilds
    cache: BuildCache
    buildkit: Buildkit


@asynccontextmanager
async def builds_composed(
    config: Config, images: ImageStore, events: EventBus, scratch: Path, make: MakeBuildkit
) -> AsyncIterator[Builds]:
    """Connect the objects of builds; they work until the block ends. `make` opens the builder."""
    door = Door(images)
    async with LoopThread.open() as loop, make(BuildParts(loop, door)) as buildkit, TrioPortal.open() as portal:
        solves = SolveService(buildkit.builders, door, images, events, door.manifest_digest, config.allow_registries)
        calls = BuildCalls(portal, buildkit.builders, solves, buildkit.workers)
        spool = ContextSpool(scratch, config.builder.builder_disk)
        classic = ClassicBuilds(buildkit.builders, solves, spool, buildkit.limits)
        cache = BuildCache(buildkit.builders, events, buildkit.has_cache)
        yield Builds(BuildConnections(loop, buildkit.builders, calls), classic, cache, buildkit)


@dataclass(frozen=True, slots=True)
class BuilderEnvironment:
    """The parts of the engine that the builder machine uses. `cpus` and `memory_mib` are those of a machine of the usual size."""

    config: Config
    database: Database
    containers: ContainerServices
    networks: Networks
    volumes: Volumes
    images: ImageStore
    transfers: Transfers
    proxies: Proxies
    cpus: int
    memory_mib: int


def machine_buildkit(environment: BuilderEnvironment) -> MakeBuildkit:
    """BuildKit in a machine of vchd. That of an earlier vchd is found again when this is opened."""
    config = environment.config

    @asynccontextmanager
    async def open_machine(parts: BuildParts) -> AsyncIterator[Buildkit]:
        container = BuilderContainer(
            config.builder,
            environment.containers,
            environment.networks,
            environment.volumes,
            environment.images,
            environment.transfers,
        )
        rules = RegistryRules(
            config.registry_mirrors, config.insecure_registries, config.certs_dir, environment.proxies
        )
        settings = MachineSettings(
            config.data_root / "builder",
            config.builder.builder_idle,
            2 * (config.builder.builder_cpus or environment.cpus),
            rules,
        )
        async with trio.open_nursery() as nursery:
            machine = BuilderMachine(settings, container, parts.door, environment.database, parts.loop, nursery)
            await machine.restore()
            try:
                memory = (config.builder.builder_memory or environment.memory_mib) << 20
                yield Buildkit(
                    machine,
                    machine.workers,
                    machine,
                    machine.facts,
                    lambda: BuilderFacts(memory, container.gateway()),
                    lambda: machine.has_cache,
                )
            finally:
                # The machine keeps running; the next vchd finds it.
                nursery.cancel_scope.cancel()

    return open_machine
