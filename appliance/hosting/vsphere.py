"""vSphere: a driver that is logged in, and the concentrator that the machines' serial ports connect to."""

import contextlib
import ipaddress
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from appliance.config import (
    Config,
    VsphereConfig,
    bracketed,
    host_and_port,
    parse_container_network,
    parse_volume_store,
    required,
)
from appliance.engine.machines.pool import Pool, PoolPlan
from appliance.engine.machines.rehearsal import ContainerRehearsal
from appliance.engine.networking.networks import Networks
from appliance.errors import InvalidParameter, Unavailable
from appliance.guest.fast_path import FastPaths
from appliance.hosting.contract import Hosting, Machines, usual_machine
from appliance.hypervisor.vsphere.concentrator import Concentrator, Network
from appliance.hypervisor.vsphere.driver import GuestImage, VsphereDriver
from appliance.hypervisor.vsphere.extension import Extension
from appliance.hypervisor.vsphere.instantclones import InstantClones
from appliance.hypervisor.vsphere.inventory import Names
from appliance.hypervisor.vsphere.server import Server
from appliance.network.host import BridgedHostNetwork, HostNetwork, may_create_bridges
from appliance.network.network_record import Uplink
from appliance.volume.nfs import is_nfs
from tether.rpc.bridge import LoopThread

_HTTPS = 443


class VsphereHosting(Hosting):
    """Machines of a vCenter or ESXi. The connection is a login, and a serial port concentrator that listens for the machines."""

    has_datastores = True

    def __init__(self, config: Config) -> None:
        self._config = config
        # Present while `connected` lasts.
        self._driver: VsphereDriver | None = None

    def network_host(self) -> HostNetwork:
        """See Hosting."""
        config = self._config
        if not may_create_bridges() or config.networking == "user":
            raise InvalidParameter("--hypervisor vsphere needs bridges, and so the rights of root (CAP_NET_ADMIN)")
        interface = required(config.vsphere, "bridge_interface")
        return BridgedHostNetwork(config.bridge, Uplink(config.bridge, interface, config.vsphere.quick_port))

    @asynccontextmanager
    async def connected(self, owner: str) -> AsyncIterator[None]:
        """See Hosting. The tenant's files on the datastores belong to `owner` from now on."""
        config, settings = self._config, self._config.vsphere
        server = _server(config)
        names = Names(
            settings.tenant,
            settings.datacenter,
            settings.compute_resource,
            settings.vm_folder,
            settings.image_store,
            required(settings, "bridge_network"),
            settings.vm_names,
            _portgroups(config),
            tuple(store for store in map(parse_volume_store, config.volume_stores) if not is_nfs(store[1])),
            settings.vm_group,
        )
        allowed = [_network(text) for text in settings.vspc_allow]
        tls = _tls(settings)
        address, port = _address(settings.vspc_listen, "--vspc-listen")
        async with trio.open_nursery() as nursery:
            concentrator = Concentrator(nursery, allowed, tls)
            try:
                (listener,) = await trio.open_tcp_listeners(port, host=address)
            except OSError as error:
                raise Unavailable(f"--vspc-listen {settings.vspc_listen}: {error}") from error
            nursery.start_soon(concentrator.serve, listener)
            reachable = settings.vspc_address or _reachable_address(server, address)
            uri = f"{'telnets' if tls is not None else 'telnet'}://{reachable}:{listener.socket.getsockname()[1]}"
            image = _image(config.guest, settings.vm_firmware)
            async with VsphereDriver.open(server, names, concentrator, uri, image, owner) as driver:
                await driver.connect()
                self._driver = driver
                yield
            nursery.cancel_scope.cancel()

    async def machines(self, loop: LoopThread, networks: Networks, nursery: trio.Nursery) -> Machines:
        """See Hosting."""
        config, blank, usual = self._config, networks.allocator.blank, usual_machine(self._config, networks)
        driver = self._driver
        assert driver is not None
        pools: list[Pool] = []
        if config.vm_pool and config.vm_template:
            clones = InstantClones(driver, ContainerRehearsal(loop, config.data_root, blank))
            nursery.start_soon(clones.run)
            pools = [Pool(PoolPlan(config.vm_pool, usual), clones, None, loop, nursery, lambda: True)]
        fast_paths = FastPaths(config.bridge, config.vsphere.quick_port)
        await nursery.start(fast_paths.run)
        return Machines(driver, driver.disks, usual, pools, fast_paths)


def _server(config: Config) -> Server:
    settings = config.vsphere
    where = host_and_port(required(settings, "vsphere"), _HTTPS)
    if settings.vsphere_extension:
        if settings.vsphere_password_file is not None or settings.vsphere_token_file is not None:
            raise InvalidParameter("--vsphere-extension logs in by a certificate: leave out password and token")
        key = settings.vsphere_extension
        extension = Extension(
            key, config.data_root / "extension", settings.vsphere_ticket_file, settings.vsphere_tunnel_port
        )
        return Server(where[0], key, "", where[1], settings.thumbprint, settings.vsphere_ca, extension=extension)
    if settings.vsphere_token_file is not None:
        if settings.vsphere_password_file is not None:
            raise InvalidParameter("--vsphere-token-file and --vsphere-password-file exclude each other")
        user = settings.vsphere_user or "the token's user"
        token = settings.vsphere_token_file
        return Server(where[0], user, "", where[1], settings.thumbprint, settings.vsphere_ca, token)
    if settings.vsphere_password_file is None:
        raise InvalidParameter(
            "--hypervisor vsphere needs --vsphere-password-file, --vsphere-token-file or --vsphere-extension"
        )
    try:
        password = settings.vsphere_password_file.read_text().rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"--vsphere-password-file {settings.vsphere_password_file}: {error}") from error
    user = required(settings, "vsphere_user")
    return Server(where[0], user, password, where[1], settings.thumbprint, settings.vsphere_ca)


def _image(guest: Path, firmware: str) -> GuestImage:
    try:
        manifest = json.loads((guest / "manifest.json").read_bytes())
        return GuestImage(guest / "guest.iso", str(manifest["sha256"]["guest.iso"]), firmware)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidParameter(f"--guest {guest}: there is no guest image for a CD drive: {error}") from error


def _portgroups(config: Config) -> tuple[str, ...]:
    portgroups = tuple(parse_container_network(text).place for text in config.container_networks)
    if config.vsphere.bridge_network in portgroups:
        raise InvalidParameter(f"--container-network: {config.vsphere.bridge_network} is the bridge network")
    return portgroups


def _tls(settings: VsphereConfig) -> ssl.SSLContext | None:
    if settings.vspc_cert is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.vspc_cert, settings.vspc_key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"--vspc-cert {settings.vspc_cert}: {error}") from error
    return context


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidParameter(f"--vspc-allow {text}: {error}") from error


def _address(text: str, setting: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 0xFFFF:
        raise InvalidParameter(f"{setting} {text}: address:port")
    return host.strip("[]") or "0.0.0.0", int(port)


def _reachable_address(server: Server, listening: str) -> str:
    """The address by which ESXi hosts reach the concentrator: where it listens, or this host's address towards the server."""
    if not ipaddress.ip_address(listening).is_unspecified:
        return bracketed(listening)
    with contextlib.suppress(OSError):
        kind, _, _, _, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            own = str(probe.getsockname()[0])
            return bracketed(own)
    raise InvalidParameter(f"--vspc-address is required: this host has no route to {server.host}")
