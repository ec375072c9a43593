"""The composition root: builds every object of the daemon and connects them. No other module does."""

import gc
import logging
import math
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from appliance.api.routes import Api, Backends, router_over
from appliance.api.scopes.router import scoped_router
from appliance.api.system import SystemSettings
from appliance.composition_builds import BuilderEnvironment, Builds, MakeBuildkit, builds_composed, machine_buildkit
from appliance.config import Config, parse_container_network, parse_ulimit
from appliance.container.host_config import Ulimit
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.builds.builder_container import ContainerServices
from appliance.engine.containers.archive import Archive
from appliance.engine.containers.checkpoints import Checkpoints
from appliance.engine.containers.commits import Commits
from appliance.engine.containers.creation import ContainerCreation, ContainerDefaults
from appliance.engine.containers.execs import Execs
from appliance.engine.containers.file_sessions import FileSessions
from appliance.engine.containers.health import HealthMonitor
from appliance.engine.containers.recovery import Recovery
from appliance.engine.containers.removal import ContainerRemoval
from appliance.engine.containers.resumption import RunResumption
from appliance.engine.containers.run_resources import RunResources
from appliance.engine.containers.service import ContainerService
from appliance.engine.containers.signals import Signals
from appliance.engine.containers.stats import Stats
from appliance.engine.containers.storage import ContainerStorage
from appliance.engine.containers.supervisor import RunWatcher, Supervisor
from appliance.engine.containers.updates import Updates
from appliance.engine.daemon_status import DaemonStatus
from appliance.engine.machines.admission import Admission
from appliance.engine.machines.boot import MachineSize
from appliance.engine.machines.devices import check_devices
from appliance.engine.machines.pods import Pods
from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.machines.suspend_watcher import SuspendWatcher
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.engine.model.exec_repository import ExecRepository
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.networking.connections import Connections
from appliance.engine.networking.dhcp_leases import DhcpLeases
from appliance.engine.networking.fast_paths import FastPathWatcher
from appliance.engine.networking.host_ports import HostPorts
from appliance.engine.networking.networks import Networks, NetworkSettings
from appliance.engine.networking.swarm import Swarm
from appliance.engine.quota import Quota
from appliance.engine.sockets.api_dialer import ApiConnection
from appliance.engine.sockets.relays import SocketRelays
from appliance.engine.transfers import Transfers
from appliance.engine.volumes import Volumes
from appliance.errors import VchError
from appliance.hosting import Hosting, Machines, hosting_of, served_stores
from appliance.hypervisor import Disks, MachineSpec, why_no_shares
from appliance.image.conversion import Converters
from appliance.image.store import ImageStore
from appliance.registry import Credentials, Proxies, Registry
from appliance.registry.insecure import is_insecure
from appliance.roles import Role
from appliance.store import Database
from appliance.volume.bind_source import BindSources
from appliance.volume.store import VolumeStore
from tether.rpc.bridge import LoopThread

log = logging.getLogger("vchd")


@dataclass(frozen=True, slots=True)
class Process:
    """What all parts of the daemon use.

    `nursery` runs their tasks, `scratch` is a folder for files under construction, `api` takes connections to the daemon's own API.
    """

    config: Config
    database: Database
    loop: LoopThread
    nursery: trio.Nursery
    events: EventBus
    registry: ContainerRegistry
    scratch: Path
    api: trio.MemorySendChannel[ApiConnection]


@dataclass(frozen=True, slots=True)
class Stores:
    """What containers are made of."""

    networks: Networks
    images: ImageStore
    volumes: Volumes
    disks: Disks
    quota: Quota


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes call."""

    containers: ContainerService
    creation: ContainerCreation
    removal: ContainerRemoval
    signals: Signals
    storage: ContainerStorage
    execs: Execs
    checkpoints: Checkpoints
    updates: Updates
    stats: Stats
    archive: Archive
    commits: Commits
    connections: Connections
    status: DaemonStatus


@dataclass(frozen=True, slots=True)
class Daemon:
    """The whole daemon except its listeners. `router` answers requests; tests of the engine call `services` directly.

    `mounts` has the connections of programs in containers to the API.
    """

    process: Process
    stores: Stores
    services: Services
    router: Api
    mounts: trio.MemoryReceiveChannel[ApiConnection]


@asynccontextmanager
async def composed(
    config: Config, hosting: Hosting | None = None, make_buildkit: MakeBuildkit | None = None
) -> AsyncIterator[Daemon]:
    """Build the daemon; it runs until the block ends. `hosting` replaces the hypervisor that the configuration names.

    `make_buildkit` replaces the machine in which builds run.
    """
    scratch, host_id = _prepare_folders(config)
    hosting = hosting or hosting_of(config)
    async with (
        Database.open(config.data_root / "state.db") as database,
        LoopThread.open() as loop,
        # Outside of the nursery: its tasks need the connection until they end.
        hosting.connected(host_id),
        trio.open_nursery() as nursery,
    ):
        api, mounts = trio.open_memory_channel[ApiConnection](0)
        process = Process(config, database, loop, nursery, EventBus(), ContainerRegistry(), scratch, api)
        networks = _networks(process, hosting)
        await networks.open()
        machines = await hosting.machines(loop, networks, nursery)
        stores = await _stores(process, hosting, machines, networks)
        services, recovery = _services(process, machines, stores)
        await recovery.restore()
        services.execs.restored()
        await stores.images.sweep()
        disks = [*services.storage.disks(), *stores.volumes.disks()]
        await stores.disks.sweep(disks, stores.images.layers(), stores.images.stacks())
        networks.settle()
        machines.begin(nursery)
        # The objects so far stay until the end, so the garbage collector can skip them.
        gc.freeze()
        try:
            proxies = Proxies.of(os.environ, config.http_proxy, config.https_proxy, config.no_proxy)
            transfers = _transfers(process, stores, proxies)
            environment = _builder_environment(process, stores, services, transfers, proxies, machines.usual)
            make = make_buildkit or machine_buildkit(environment)
            async with builds_composed(config, stores.images, process.events, scratch, make) as builds:
                services.status.include(builds.buildkit.facts)
                settings = SystemSettings(config, host_id, proxies)
                api_handler = _api(process, stores, services, transfers, settings, builds)
                yield Daemon(process, stores, services, api_handler, mounts)
        finally:
            with trio.CancelScope(shield=True):
                await networks.close()
            # Machines keep running; the next vchd finds them.
            nursery.cancel_scope.cancel()


def _prepare_folders(config: Config) -> tuple[Path, str]:
    """The empty scratch folder, and the id of this data root, made at the first start."""
    config.exec_root.mkdir(parents=True, exist_ok=True, mode=0o711)
    scratch = config.data_root / "scratch"
    scratch.mkdir(exist_ok=True, mode=0o700)
    for leftover in scratch.iterdir():
        leftover.unlink(missing_ok=True)
    identity = config.data_root / "id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(16))
    return scratch, identity.read_text()


def _networks(process: Process, hosting: Hosting) -> Networks:
    config = process.config
    external = tuple(parse_container_network(text) for text in config.container_networks)
    settings = NetworkSettings(config.bridge, config.bip, config.dns, external)
    return Networks(hosting.network_host(), process.database, process.events, process.nursery, settings)


async def _stores(process: Process, hosting: Hosting, machines: Machines, networks: Networks) -> Stores:
    config, disks = process.config, machines.disks
    quota = Quota(config.storage_quota)
    tasks = IsolatedTasks(process.nursery)
    images = ImageStore(
        process.database,
        config.data_root,
        Converters(process.nursery),
        lambda layer: tasks.start_soon(_forget, disks, layer),
        quota.admit,
        quota.room,
    )
    quota.count(images.layers_used)
    no_shares = why_no_shares(machines.driver)
    store = VolumeStore(
        config.data_root,
        disks,
        shared=not no_shares,
        nfs_stores=served_stores(config, has_datastores=hosting.has_datastores),
    )
    api_sockets = [Path(host.removeprefix("unix://")) for host in config.hosts if host.startswith("unix://")]
    binds = BindSources(no_shares, api_sockets)
    volumes = Volumes(store, process.database, process.events, process.registry, binds)
    await volumes.open(tasks)
    await volumes.inherit(await disks.inherited())
    return Stores(networks, images, volumes, disks, quota)


async def _forget(disks: Disks, layer: Path) -> None:
    try:
        await disks.forget(layer)
    except VchError as error:
        log.warning("the disk of layer %s stays until the next start: %s", layer.stem[:12], error)


def _default_ulimits(config: Config) -> tuple[Ulimit, ...]:
    """As in dockerd, the last of several limits with one name counts."""
    limits = (parse_ulimit(text) for text in config.default_ulimits)
    return tuple({limit.name: Ulimit(limit.name, limit.hard, limit.soft) for limit in limits}.values())


def _services(process: Process, machines: Machines, stores: Stores) -> tuple[Services, Recovery]:
    config, nursery, registry = process.config, process.nursery, process.registry
    networks, volumes, images, allocator = stores.networks, stores.volumes, stores.images, stores.networks.allocator
    repository = ContainerRepository(process.database, process.events)
    storage = ContainerStorage(config.data_root / "containers", stores.disks, stores.quota, registry, nursery)
    stores.quota.count(storage.total_used)
    leases = DhcpLeases(networks, repository)
    connections = Connections(registry, repository, networks, leases, config.dns)
    provisioner = MachineProvisioner(
        machines.driver,
        machines.pools,
        Admission(os.cpu_count() or 1),
        images,
        MachineSize(machines.usual.memory_mib, machines.usual.cpus),
        process.loop,
        nursery,
    )
    file_sessions = FileSessions(provisioner, volumes, allocator, machines.fast_paths, nursery)
    suspend_watcher = SuspendWatcher(repository)
    ulimits = _default_ulimits(config)
    capacity = machines.driver.capacity
    devices = partial(check_devices, machines.driver)
    defaults = ContainerDefaults(ulimits, Role(config.docker_socket_default), capacity, devices)
    resources = RunResources(networks, connections, volumes, ulimits)
    execs = Execs(registry, repository, ExecRepository(process.database), resources.process_config, nursery)
    watchers: list[RunWatcher] = [
        HealthMonitor(repository, resources.process_config),
        HostPorts(allocator.published, repository),
        suspend_watcher,
        connections,
        execs,
        SocketRelays(process.api),
    ]
    if machines.fast_paths is not None:
        watchers.append(FastPathWatcher(machines.fast_paths))
    ended, to_remove = trio.open_memory_channel[Container](math.inf)
    pods = Pods(provisioner, registry, volumes.disks_of, volumes.tmpfs_of, nursery)
    supervisor = Supervisor(pods, resources, file_sessions, repository, watchers, ended, nursery)
    signals = Signals(registry, repository, supervisor, suspend_watcher, pause_by_suspend=config.pause_by == "suspend")
    removal = ContainerRemoval(registry, repository, volumes, storage, supervisor, signals)
    nursery.start_soon(removal.run_auto_removal, to_remove, nursery)
    checkpoints = Checkpoints(registry, repository)
    archive = Archive(registry, file_sessions, repository)
    services = Services(
        containers=ContainerService(registry, repository, supervisor, checkpoints, signals),
        creation=ContainerCreation(registry, repository, images, allocator, volumes, storage, defaults),
        removal=removal,
        signals=signals,
        storage=storage,
        execs=execs,
        checkpoints=checkpoints,
        updates=Updates(registry, repository, pods, machines.driver.capacity),
        stats=Stats(registry, repository),
        archive=archive,
        commits=Commits(registry, repository, archive, images, signals),
        connections=connections,
        status=DaemonStatus(machines.driver, provisioner, stores.quota),
    )
    resumption = RunResumption(pods, supervisor, resources, repository, suspend_watcher, execs, nursery)
    recovery = Recovery(machines.driver, registry, repository, storage, allocator, supervisor, resumption)
    return services, recovery


def _builder_environment(
    process: Process, stores: Stores, services: Services, transfers: Transfers, proxies: Proxies, usual: MachineSpec
) -> BuilderEnvironment:
    containers = ContainerServices(
        process.registry,
        services.creation,
        services.removal,
        services.containers,
        services.signals,
        services.archive,
    )
    networks, volumes, images = stores.networks, stores.volumes, stores.images
    return BuilderEnvironment(
        process.config,
        process.database,
        containers,
        networks,
        volumes,
        images,
        transfers,
        proxies,
        usual.cpus,
        usual.memory_mib,
    )


def _transfers(process: Process, stores: Stores, proxies: Proxies) -> Transfers:
    config = process.config

    def dial(host: str, credentials: Credentials) -> Registry:
        mirrors = config.registry_mirrors if host == "docker.io" else ()
        return Registry(
            host,
            credentials,
            insecure=is_insecure(host, config.insecure_registries),
            mirrors=mirrors,
            certificates=config.certs_dir / host,
            proxies=proxies,
        )

    return Transfers(
        stores.images, process.events, dial, config.allow_registries, process.scratch, process.nursery, proxies
    )


def _api(
    process: Process,
    stores: Stores,
    services: Services,
    transfers: Transfers,
    settings: SystemSettings,
    builds: Builds,
) -> Api:
    registry, events, networks, images = process.registry, process.events, stores.networks, stores.images
    swarm = Swarm(process.database, networks, services.connections)
    backends = Backends(
        settings=settings,
        scratch=process.scratch,
        daemon=services.status,
        events=events,
        containers=registry,
        creation=services.creation,
        removal=services.removal,
        lifecycle=services.containers,
        signals=services.signals,
        updates=services.updates,
        storage=services.storage,
        stats=services.stats,
        files=services.archive,
        execs=services.execs,
        checkpoints=services.checkpoints,
        commits=services.commits,
        images=images,
        transfers=transfers,
        networks=networks,
        connections=services.connections,
        volumes=stores.volumes,
        swarm=swarm,
        upgrades=builds.connections,
        builds=builds.classic,
        prunes=builds.cache,
        build_cache=builds.buildkit.cache,
    )
    return Api(router_over(backends), partial(scoped_router, backends))
