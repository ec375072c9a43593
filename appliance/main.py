"""`vchd`: the composition root. It alone builds concrete objects."""

import contextlib
import fcntl
import gc
import grp
import ipaddress
import logging
import os
import resource
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import trio

from appliance import __version__
from appliance.api.access import handler_for
from appliance.api.archive import ArchiveRoutes
from appliance.api.checkpoints import CheckpointRoutes
from appliance.api.containers import ContainerRoutes
from appliance.api.execs import ExecRoutes
from appliance.api.image_transfers import ImageTransferRoutes
from appliance.api.images import ImageRoutes
from appliance.api.networks import NetworkRoutes
from appliance.api.router import NEWEST, Router, dotted
from appliance.api.stats import StatsRoutes
from appliance.api.swarm import SwarmRoutes
from appliance.api.system import SystemRoutes
from appliance.api.unsupported import UnsupportedRoutes
from appliance.api.usage import UsageRoutes
from appliance.api.volumes import VolumeRoutes
from appliance.config import Config, Rule, parse_arguments, parse_container_network, parse_rule
from appliance.diag import dump_tasks
from appliance.diag.isolated import IsolatedTasks
from appliance.diag.logfile import FORMAT, LOG_NAME, log_to
from appliance.diag.shipping import shipped
from appliance.engine.containers.service import Containers
from appliance.engine.containers.supervisor import Defaults
from appliance.engine.machines.admission import Admission
from appliance.engine.model.events import EventBus
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.networking.networks import Networks, NetworkSettings
from appliance.engine.networking.swarm import Swarm
from appliance.engine.quota import Quota
from appliance.engine.transfers import Transfers
from appliance.engine.volumes import Volumes
from appliance.errors import Conflict, InvalidParameter, VchError, leaves
from appliance.hosting import hosting_of, served_stores
from appliance.http import Readiness, TlsFront, accept_connections, serve_connection
from appliance.http.listener import BACKLOG
from appliance.hypervisor import Disks, why_no_shares
from appliance.image.store import ImageStore
from appliance.registry import Credentials, Proxies, Registry
from appliance.store import Database
from appliance.volume.store import VolumeStore
from tether.rpc.bridge import LoopThread

log = logging.getLogger("vchd")
_FIXED = f"Api-Version: {dotted(NEWEST)}\r\nOstype: linux\r\nServer: vch/{__version__} (linux)\r\n".encode()
_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}


def _listen(host: str) -> socket.socket:
    """Bind unix:///path or tcp://address:port."""
    kind, _, rest = host.partition("://")
    if kind == "unix":
        path = Path(rest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        old = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(path, -1, grp.getgrnam("docker").gr_gid)
    elif kind == "tcp":
        address, _, port = rest.rpartition(":")
        if not port.isdigit():
            raise InvalidParameter(f"invalid -H {host}: tcp://address:port")
        listener = socket.create_server((address or "127.0.0.1", int(port)))
    else:
        raise InvalidParameter(f"invalid -H {host}: unix:///path or tcp://address:port")
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _insecure(host: str, config: Config) -> bool:
    """Docker's rule: loopback registries, and those named, by host or by subnet."""
    name = host.rpartition(":")[0] or host
    if name == "localhost" or host in config.insecure_registries:
        return True
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return address.is_loopback or any(address in subnet for subnet in _subnets(config.insecure_registries))


def _subnets(texts: Iterable[str]) -> Iterator[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    for text in texts:
        with contextlib.suppress(ValueError):
            if "/" in text:
                yield ipaddress.ip_network(text, strict=False)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Hold the folder against a second vchd; the kernel lets go of it when this process ends, however it does."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{folder} is in use by another vchd") from None
        yield
    finally:
        os.close(fd)


def _allow_many_files() -> None:
    """A machine takes four descriptors of ours, a client one: what the soft limit allows is soon used up."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _forget(disks: Disks, layer: Path) -> None:
    try:
        await disks.forget(layer)
    except VchError as error:
        log.warning("the disk of layer %s stays until the next start: %s", layer.stem[:12], error)


@asynccontextmanager
async def appliance(config: Config) -> AsyncIterator[Router]:
    """All of the daemon but its listeners."""
    config.exec_root.mkdir(parents=True, exist_ok=True, mode=0o711)
    scratch = config.data_root / "scratch"
    scratch.mkdir(exist_ok=True, mode=0o700)
    for leftover in scratch.iterdir():
        leftover.unlink(missing_ok=True)
    identity = config.data_root / "id"
    if not identity.exists():
        identity.write_text(secrets.token_hex(16))
    hosting = hosting_of(config)
    async with (
        Database.open(config.data_root / "state.db") as database,
        LoopThread.open() as loop,
        # Outside of the nursery: its tasks need the connection until they end.
        hosting.connected(identity.read_text()),
        trio.open_nursery() as nursery,
    ):
        events = EventBus()
        registry = ContainerRegistry()
        external = tuple(parse_container_network(text) for text in config.container_networks)
        settings = NetworkSettings(config.bridge, config.bip, config.dns, external)
        networks = Networks(hosting.network_host(), database, events, nursery, settings)
        await networks.open()
        machines = await hosting.machines(loop, networks, nursery)
        driver, disks = machines.driver, machines.disks
        quota = Quota(config.storage_quota)
        tasks = IsolatedTasks(nursery)
        images = ImageStore(
            database, config.data_root, lambda layer: tasks.start_soon(_forget, disks, layer), quota.admit
        )
        quota.count(images.layers_used)
        no_shares = why_no_shares(driver)
        volumes = Volumes(
            VolumeStore(
                config.data_root,
                disks,
                shared=not no_shares,
                served=served_stores(config, has_datastores=hosting.has_datastores),
            ),
            database,
            events,
            registry,
            no_shares,
        )
        await volumes.open(tasks)
        await volumes.inherit(await disks.inherited())
        containers = Containers(
            registry,
            config.data_root,
            database,
            driver,
            images,
            networks,
            volumes,
            events,
            loop,
            nursery,
            Defaults(config.vm_memory, config.vm_cpus, config.dns),
            disks,
            Admission(os.cpu_count() or 1),
            machines.pools,
            quota,
            machines.fast_paths,
            pause_by_suspend=config.pause_by == "suspend",
        )
        await containers.restore()
        await images.sweep()
        await disks.sweep([*containers.disks(), *volumes.disks()], images.layers(), images.stacks())
        networks.settle()
        machines.begin(nursery)
        # What is here now stays: the collector need not look at it again.
        gc.freeze()

        proxies = Proxies.of(os.environ, config.http_proxy, config.https_proxy, config.no_proxy)

        def dial(host: str, credentials: Credentials) -> Registry:
            mirrors = config.registry_mirrors if host == "docker.io" else ()
            return Registry(
                host,
                credentials,
                insecure=_insecure(host, config),
                mirrors=mirrors,
                certificates=config.certs_dir / host,
                proxies=proxies,
            )

        transfers = Transfers(images, events, dial, config.allow_registries, scratch, nursery, proxies)
        router = Router()
        router.add_all(ContainerRoutes(containers, networks, images).routes())
        router.add_all(ExecRoutes(containers).routes())
        router.add_all(ArchiveRoutes(containers.files).routes())
        router.add_all(StatsRoutes(containers, containers.stats).routes())
        router.add_all(CheckpointRoutes(containers).routes())
        router.add_all(ImageRoutes(images, containers, containers.commits, events).routes())
        router.add_all(ImageTransferRoutes(images, transfers, events, scratch).routes())
        router.add_all(NetworkRoutes(networks, containers.connections).routes())
        router.add_all(VolumeRoutes(volumes).routes())
        router.add_all(UnsupportedRoutes().routes())
        router.add_all(UsageRoutes(containers, networks, images, volumes).routes())
        swarm = Swarm(database, networks, containers.connections)
        router.add_all(SwarmRoutes(swarm).routes())
        router.add_all(
            SystemRoutes(
                config, driver, containers, networks, images, events, proxies, identity.read_text(), swarm
            ).routes()
        )
        try:
            yield router
        finally:
            with trio.CancelScope(shield=True):
                await networks.close()
            # Machines go on without us; the next vchd finds them.
            nursery.cancel_scope.cancel()


def _front_of(config: Config) -> TlsFront | None:
    """What stands in front of connections by TCP. InvalidParameter for files that cannot be used."""
    if not config.tls and not config.tlsverify:
        for host in config.hosts:
            if host.startswith("tcp://"):
                log.warning("API at %s without TLS: whoever reaches it has the rights of root here (--tlsverify)", host)
        return None
    return TlsFront(config.tlscert, config.tlskey, config.tlscacert if config.tlsverify else None)


async def _accept(
    listener: socket.socket,
    router: Router,
    readiness: Readiness,
    nursery: trio.Nursery,
    front: TlsFront | None,
    rules: Sequence[Rule],
) -> None:
    async def serve(connection: trio.socket.SocketType) -> None:
        if front is None:
            await serve_connection(connection, router, _FIXED, readiness)
            return
        async with front.opened(connection) as found:
            if found is not None:
                plain, peer = found
                await serve_connection(plain, handler_for(peer, rules, router), _FIXED, readiness)

    await accept_connections(trio.socket.from_stdlib_socket(listener), serve, nursery, name="API")


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT; SIGUSR1 prints all tasks."""
    _allow_many_files()
    async with AsyncExitStack() as stack:
        stack.enter_context(_lock(config.data_root))
        log_to(config.data_root / LOG_NAME)
        stack.enter_context(shipped(config.syslog_address))
        router = await stack.enter_async_context(appliance(config))
        await _listen_until_told(config, router)


async def _listen_until_told(config: Config, router: Router) -> None:
    async with trio.open_nursery() as nursery:
        rules = [parse_rule(text) for text in config.tls_allow]
        front = _front_of(config)
        listeners = [_listen(host) for host in config.hosts]
        readiness = Readiness()
        nursery.start_soon(readiness.run)
        for listener in listeners:
            secured = front if listener.family != socket.AF_UNIX else None
            nursery.start_soon(_accept, listener, router, readiness, nursery, secured, rules)
        if config.pidfile is not None:
            config.pidfile.write_text(str(os.getpid()))
        log.info("API listens on %s", ", ".join(config.hosts))
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
            async for number in signals:
                if number == signal.SIGUSR1:
                    sys.stderr.write(dump_tasks())
                    continue
                break
        nursery.cancel_scope.cancel()
        for listener, host in zip(listeners, config.hosts, strict=True):
            listener.close()
            if host.startswith("unix://"):
                Path(host.removeprefix("unix://")).unlink(missing_ok=True)
        if config.pidfile is not None:
            config.pidfile.unlink(missing_ok=True)


def run() -> None:
    """The console script `vchd`."""
    try:
        config = parse_arguments(sys.argv[1:])
        logging.basicConfig(level=_LEVELS[config.log_level], format=FORMAT)
        # What they tell of their insides is more than all the rest.
        for name in ("httpx", "httpcore", "pyroute2", "asyncio"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Records, logs and disks of containers are nobody else's on this host.
        os.umask(0o077)
        trio.run(serve, config)
    except* (VchError, OSError) as group:
        sys.exit(f"vchd: {'; '.join(str(leaf) for leaf in leaves(group))}")
