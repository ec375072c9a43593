"""All routes over their backends, and the handler of all connections."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from appliance.api.archive import ArchiveRoutes
from appliance.api.backend import (
    BuildCacheBackend,
    CheckpointBackend,
    CommitBackend,
    ConnectionBackend,
    ContainerBackend,
    ContainerRegistry,
    CreationBackend,
    DaemonBackend,
    EventBackend,
    ExecBackend,
    FileBackend,
    NetworkBackend,
    RemovalBackend,
    SignalBackend,
    StatsBackend,
    StorageBackend,
    TransferBackend,
    UpdateBackend,
    VolumeBackend,
)
from appliance.api.builds.routes import BuildBackend, BuildRoutes, PruneBackend
from appliance.api.builds.upgrades import UpgradeBackend, UpgradeRoutes
from appliance.api.checkpoints import CheckpointRoutes
from appliance.api.containers import ContainerRoutes
from appliance.api.daemon_objects import guard_daemon_objects
from appliance.api.debug import DebugRoutes
from appliance.api.events import EventRoutes
from appliance.api.execs import ExecRoutes
from appliance.api.image_transfers import ImageTransferRoutes
from appliance.api.images import ImageRoutes
from appliance.api.lifecycle import LifecycleRoutes
from appliance.api.networks import NetworkRoutes
from appliance.api.recovery import RecoveryGate
from appliance.api.router import Route, Router
from appliance.api.stats import StatsRoutes
from appliance.api.streams import StreamRoutes
from appliance.api.swarm import SwarmBackend, SwarmRoutes
from appliance.api.system import SystemRoutes, SystemSettings
from appliance.api.unsupported import UnsupportedRoutes
from appliance.api.usage import UsageRoutes
from appliance.api.volumes import VolumeRoutes
from appliance.http import Reply, Request
from appliance.image.store import ImageStore

# Routers of scopes that are kept. Another scope's router is made again when a client of that scope asks.
_SCOPES = 64


@dataclass(frozen=True, slots=True)
class Backends:
    """What the routes call. `scratch` is a folder for archives while they are loaded."""

    settings: SystemSettings
    scratch: Path
    daemon: DaemonBackend
    events: EventBackend
    containers: ContainerRegistry
    creation: CreationBackend
    removal: RemovalBackend
    lifecycle: ContainerBackend
    signals: SignalBackend
    updates: UpdateBackend
    storage: StorageBackend
    stats: StatsBackend
    files: FileBackend
    execs: ExecBackend
    checkpoints: CheckpointBackend
    commits: CommitBackend
    images: ImageStore
    transfers: TransferBackend
    networks: NetworkBackend
    connections: ConnectionBackend
    volumes: VolumeBackend
    swarm: SwarmBackend
    upgrades: UpgradeBackend
    builds: BuildBackend
    prunes: PruneBackend
    # None: nothing is known of a cache.
    build_cache: BuildCacheBackend | None


def routes_over(b: Backends) -> dict[tuple[str, str], Route]:
    """All routes, by method and path, in the order in which patterns are tried."""
    found: dict[tuple[str, str], Route] = {}
    for routes in (
        ContainerRoutes(b.containers, b.creation, b.removal, b.storage, b.execs, b.networks, b.images),
        LifecycleRoutes(b.lifecycle, b.signals, b.updates),
        StreamRoutes(b.containers, b.lifecycle),
        ExecRoutes(b.execs),
        ArchiveRoutes(b.files),
        StatsRoutes(b.containers, b.stats),
        CheckpointRoutes(b.checkpoints),
        ImageRoutes(b.images, b.containers, b.commits, b.events),
        ImageTransferRoutes(b.images, b.transfers, b.events, b.scratch),
        NetworkRoutes(b.networks, b.connections),
        VolumeRoutes(b.volumes),
        UpgradeRoutes(b.upgrades),
        BuildRoutes(b.builds, b.prunes),
        UnsupportedRoutes(),
        UsageRoutes(b.containers, b.storage, b.networks, b.images, b.volumes, b.build_cache),
        SwarmRoutes(b.swarm, b.daemon),
        SystemRoutes(b.settings, b.daemon, b.containers, b.networks, b.images, b.swarm),
        EventRoutes(b.events),
        DebugRoutes(b.containers, b.settings.config.data_root),
    ):
        found |= routes.routes()
    return RecoveryGate(b.containers, b.execs).guarded(guard_daemon_objects(found, b.containers))


def router_over(backends: Backends) -> Router:
    """The router for clients that see all objects."""
    router = Router()
    router.add_all(routes_over(backends))
    return router


class Api:
    """The handler of all connections: a router for clients that see all objects, and a router for each scope."""

    def __init__(self, unscoped: Router, scoped: Callable[[str], Router]) -> None:
        self._unscoped = unscoped
        self._scoped = lru_cache(_SCOPES)(scoped)

    @property
    def keys(self) -> list[tuple[str, str]]:
        """The method and path of each route."""
        return self._unscoped.keys

    async def __call__(self, request: Request, reply: Reply) -> None:
        scope = request.principal.scope
        router = self._scoped(scope) if scope else self._unscoped
        await router(request, reply)
