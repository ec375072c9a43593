"""The settings of one `vchd`: dockerd's flags and a few of ours."""

import argparse
import ipaddress
import json
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field, fields
from pathlib import Path

from appliance.errors import InvalidParameter


@dataclass(frozen=True, slots=True)
class Rule:
    """Whoever has this in the subject of his certificate (`key` is CN or OU) may do all, or read only."""

    full: bool
    key: str
    value: str

    def fits(self, common_name: str, units: Collection[str]) -> bool:
        """Whether a client is meant."""
        return self.value == common_name if self.key == "CN" else self.value in units


def parse_rule(text: str) -> Rule:
    """InvalidParameter for what is none."""
    found = re.fullmatch(r"(full|read):(CN|OU)=(.+)", text)
    if found is None:
        raise InvalidParameter(f"invalid --tls-allow {text}: full:CN=NAME, full:OU=UNIT, read:CN=NAME or read:OU=UNIT")
    return Rule(found[1] == "full", found[2], found[3])


LEVELS = ("closed", "outbound", "peers", "published", "open")


@dataclass(frozen=True, slots=True)
class ContainerNetwork:
    """A network that others are on, too: `place` is the portgroup, or the bridge of this host, that it is.

    Addresses are from `range` of `subnet` (all of it by default), or DHCP's without a subnet. `firewall` is one of LEVELS.
    """

    name: str
    place: str
    subnet: str = ""
    gateway: str = ""
    range: str = ""
    dns: tuple[str, ...] = ()
    firewall: str = "published"


def parse_container_network(text: str) -> ContainerNetwork:
    """name=lan,portgroup=LAN,subnet=192.0.2.0/24,gateway=192.0.2.1,range=192.0.2.64-192.0.2.95,dns=192.0.2.1,firewall=published."""

    def wrong(why: object) -> InvalidParameter:
        return InvalidParameter(f"--container-network {text}: {why}")

    found: dict[str, list[str]] = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value or key not in _OF_A_NETWORK:
            raise wrong(f"{part!r} is none of {', '.join(f'{name}=...' for name in _OF_A_NETWORK)}")
        if key in found and key != "dns":
            raise wrong(f"{key} is said twice")
        found.setdefault(key, []).append(value)
    one = {key: values[0] for key, values in found.items()}
    places = [one[key] for key in ("portgroup", "bridge") if key in one]
    if not re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", one.get("name", "")) or len(places) != 1:
        raise wrong("name=NAME and portgroup=PORTGROUP (bridge=BRIDGE on this host) have to be said")
    level = one.get("firewall", "published")
    if level not in LEVELS:
        raise wrong(f"firewall={level} is none of {', '.join(LEVELS)}")
    if "subnet" not in one and (wanting := [key for key in ("gateway", "range") if key in one]):
        raise wrong(f"{wanting[0]} needs subnet")
    if level == "peers" and "subnet" not in one:
        raise wrong("firewall=peers needs subnet: with DHCP it is not known which addresses are peers'")
    try:
        if "subnet" in one:
            subnet = ipaddress.IPv4Network(one["subnet"])
            ends = [ipaddress.IPv4Address(end) for end in ends_of(one.get("range", str(subnet)))]
            gateways = map(ipaddress.IPv4Address, found.get("gateway", ()))
            if outside := [address for address in (*ends, *gateways) if address not in subnet]:
                raise ValueError(f"{outside[0]} is not in {subnet}")
            if ends[0] > ends[-1]:
                raise ValueError(f"range={one['range']} is empty")
        dns = tuple(str(ipaddress.ip_address(server)) for server in found.get("dns", ()))
    except ValueError as error:
        raise wrong(error) from error
    return ContainerNetwork(
        one["name"], places[0], one.get("subnet", ""), one.get("gateway", ""), one.get("range", ""), dns, level
    )


def ends_of(text: str) -> tuple[str, str]:
    """The first and last address of FIRST-LAST or of a subnet. ValueError for what is neither."""
    first, minus, last = text.partition("-")
    if minus:
        return str(ipaddress.ip_address(first)), str(ipaddress.ip_address(last))
    network = ipaddress.ip_network(text)
    return str(network[0]), str(network[-1])


_OF_A_NETWORK = ("name", "portgroup", "bridge", "subnet", "gateway", "range", "dns", "firewall")


@dataclass(frozen=True, slots=True)
class VsphereConfig:
    """Where vSphere is and what of it is ours. Of the inventory, an empty name stands for the only one that there is."""

    vsphere: str = ""
    vsphere_user: str = ""
    vsphere_password_file: Path | None = None
    vsphere_token_file: Path | None = None
    vsphere_extension: str = ""
    vsphere_ticket_file: Path | None = None
    vsphere_tunnel_port: int = 80
    thumbprint: str = ""
    vsphere_ca: Path | None = None
    tenant: str = "vch"
    datacenter: str = ""
    compute_resource: str = ""
    vm_folder: str = ""
    image_store: str = ""
    vm_firmware: str = "efi"
    vm_names: str = "{name}-{id}"
    vm_group: str = ""
    bridge_network: str = ""
    bridge_interface: str = ""
    vspc_listen: str = "0.0.0.0:2377"
    vspc_address: str = ""
    vspc_allow: tuple[str, ...] = ()
    vspc_cert: Path | None = None
    vspc_key: Path | None = None
    quick_port: int = 2378


def parse_volume_store(text: str) -> tuple[str, str]:
    """Its name, and the datastore or URL that it is. InvalidParameter for what is none."""
    found = re.fullmatch(r"([a-zA-Z0-9][a-zA-Z0-9_.-]*)=(.+)", text)
    if found is None:
        raise InvalidParameter(f"--volume-store {text}: NAME=DATASTORE or NAME=nfs://SERVER/PATH")
    return found[1], found[2]


_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """docker/go-units RAMInBytes. InvalidParameter."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)(?:i?b)?", text.lower())
    if match is None:
        raise InvalidParameter(f"invalid size: '{text}'")
    return int(float(match[1]) * _UNITS[match[2]])


def bracketed(host: str) -> str:
    """A host as URLs have it: an address of IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def host_and_port(text: str, usual: int) -> tuple[str, int]:
    """HOST, HOST:PORT, [ADDRESS] or [ADDRESS]:PORT."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or text.endswith("]"):
        host, port = text, str(usual)
    return host.strip("[]"), int(port)


def required(settings: VsphereConfig, name: str) -> str:
    """A setting that has no default. InvalidParameter when it was not given."""
    value = getattr(settings, name)
    if not value:
        raise InvalidParameter(f"--hypervisor vsphere needs --{name.replace('_', '-')}")
    return str(value)


@dataclass(frozen=True, slots=True)
class Config:
    hosts: tuple[str, ...] = ("unix:///var/run/docker.sock",)
    tls: bool = False
    tlsverify: bool = False
    tlscacert: Path = field(default_factory=lambda: _certificates() / "ca.pem")
    tlscert: Path = field(default_factory=lambda: _certificates() / "cert.pem")
    tlskey: Path = field(default_factory=lambda: _certificates() / "key.pem")
    tls_allow: tuple[str, ...] = ()
    data_root: Path = Path("/var/lib/vch")
    exec_root: Path = Path("/var/run/vch")
    pidfile: Path | None = None
    guest: Path = Path("/usr/share/vch/guest")
    hypervisor: str = "qemu"
    vsphere: VsphereConfig = VsphereConfig()
    pause_by: str = "freeze"
    accel: str = "auto"
    vm_memory: int = 256
    vm_cpus: int = 1
    vm_template: bool = True
    vm_pool: int | None = None
    networking: str = "auto"
    bridge: str = "vch0"
    bip: str = ""
    dns: tuple[str, ...] = ()
    container_networks: tuple[str, ...] = ()
    volume_stores: tuple[str, ...] = ()
    storage_quota: int = 0
    labels: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: tuple[str, ...] = ()
    allow_registries: tuple[str, ...] = ()
    certs_dir: Path = Path("/etc/docker/certs.d")
    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""
    log_level: str = "info"
    syslog_address: str = ""
    cache: Path = field(
        default_factory=lambda: Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch"
    )


def _certificates() -> Path:
    """Where Docker has its certificates."""
    return Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker")


def default_guest() -> Path:
    """Where `make setup` (next to the interpreter) or a package puts the guest."""
    import sys

    beside = Path(sys.prefix) / "share/vch/guest"
    return beside if os.path.exists(beside) else Path("/usr/share/vch/guest")


def _switch(text: str) -> bool:
    if text not in ("on", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither on nor off")
    return text == "on"


def parse_arguments(arguments: list[str]) -> Config:
    """Flags, over those of `--config-file` (JSON, dockerd's daemon.json names). InvalidParameter names what is wrong."""
    parser = argparse.ArgumentParser(
        prog="vchd", description="A virtual container host: Docker's API, a VM per container."
    )
    flag = parser.add_argument
    flag("-H", "--host", action="append", dest="hosts", help="listen on unix:///path or tcp://address:port")
    flag("--tls", action="store_true", default=None, help="TLS for tcp://; implied by --tlsverify")
    flag("--tlsverify", action="store_true", default=None, help="TLS, and clients need a certificate of --tlscacert")
    flag("--tlscacert", type=Path, help="the CAs of clients (ca.pem of $DOCKER_CERT_PATH or ~/.docker, and so on)")
    flag("--tlscert", type=Path)
    flag("--tlskey", type=Path)
    flag(
        "--tls-allow",
        action="append",
        metavar="RULE",
        help="full:CN=NAME, full:OU=UNIT, read:CN=NAME, read:OU=UNIT; without any every client may do all",
    )
    flag("--data-root", type=Path, help="images, containers, state")
    flag("--exec-root", type=Path, help="sockets and files of running machines")
    flag("--config-file", type=Path, help="a JSON file with these settings")
    flag("-p", "--pidfile", type=Path)
    flag("--guest", type=Path, help="folder with vmlinux and initrd, as build/guest/image.py makes it")
    flag("--hypervisor", choices=("qemu", "vsphere"), help="where machines run: qemu on this host, or vSphere's hosts")
    flag(
        "--pause-by",
        choices=("freeze", "suspend"),
        help="docker pause: stops a container's processes (freeze), or suspends its machine, which frees its memory (vSphere)",
    )
    flag("--accel", choices=("auto", "kvm", "tcg"))
    flag("--vm-memory", type=int, help="MiB of a machine without -m")
    flag("--vm-cpus", type=int)
    flag(
        "--vm-template",
        type=_switch,
        metavar="on|off",
        help="restore machines from a booted one (on) or boot each (off)",
    )
    flag(
        "--vm-pool",
        type=int,
        help="machines that wait for a container; 1 where the host has the memory, else 0. On vSphere (0): InstantClones, of a vCenter",
    )
    flag(
        "--networking",
        choices=("auto", "bridge", "user"),
        help="bridges of the host (bridge), NAT of each machine's own (user), or bridges where there is the right to (auto)",
    )
    flag("-b", "--bridge", help="the default network's bridge, vch0; it names the rules of nftables too")
    flag(
        "--bip",
        help="address and prefix of the default network's gateway; else 172.17.0.1/16, or the next that the host has not",
    )
    flag("--dns", action="append")
    flag(
        "--container-network",
        action="append",
        dest="container_networks",
        metavar="name=NAME,portgroup=PORTGROUP[,subnet=CIDR,gateway=IP,range=IP-IP,dns=IP,firewall=LEVEL]",
        help="a network that others are on too, for containers to be on: a portgroup (bridge=BRIDGE: a bridge of this host). Addresses "
        f"are DHCP's without a subnet. Levels: {', '.join(LEVELS)} (published)",
    )
    flag(
        "--volume-store",
        action="append",
        dest="volume_stores",
        metavar="NAME=DATASTORE|NAME=nfs://SERVER/PATH?uid=UID&gid=GID",
        help="where volumes may be put, too: docker volume create -o VolumeStore=NAME. A datastore of vSphere's, or an NFS server's path",
    )
    flag(
        "--storage-quota",
        metavar="SIZE",
        help="what images and containers may take together (10g); volumes do not count",
    )
    flag("--label", action="append", dest="labels")
    flag("--insecure-registry", action="append", dest="insecure_registries")
    flag("--registry-mirror", action="append", dest="registry_mirrors")
    flag("--allow-registry", action="append", dest="allow_registries", help="use no other registry than those named")
    flag("--certs-dir", type=Path, help="folders by registry with its CAs (*.crt) and our certificates (*.cert, *.key)")
    flag("--http-proxy", help="for registries; else HTTP_PROXY of the environment, likewise the next two")
    flag("--https-proxy")
    flag("--no-proxy", help="hosts that are reached without: names, IPs, CIDRs, with commas between")
    flag("-l", "--log-level", choices=("debug", "info", "warn", "error", "fatal"))
    flag(
        "--syslog-address",
        metavar="udp|tcp|tcp+tls://HOST[:PORT]",
        help="where to send what vchd itself logs, too (containers': --log-driver syslog)",
    )
    _add_vsphere(parser)
    given = {key: value for key, value in vars(parser.parse_args(arguments)).items() if value is not None}
    file = given.pop("config_file", None)
    settings = {**_read_file(file), **given} if file is not None else given
    settings.setdefault("guest", default_guest())
    for key, value in settings.items():
        if isinstance(value, list):
            settings[key] = tuple(value)
    if settings.get("tls_allow") and not settings.get("tlsverify"):
        raise InvalidParameter("--tls-allow needs --tlsverify: without it nobody says who he is")
    if settings.get("pause_by") == "suspend" and settings.get("hypervisor") != "vsphere":
        raise InvalidParameter("--pause-by suspend needs --hypervisor vsphere")
    if quota := settings.get("storage_quota"):
        try:
            settings["storage_quota"] = parse_size(str(quota))
        except InvalidParameter as error:
            raise InvalidParameter(f"--storage-quota: {error}") from error
    own = {key: settings.pop(key) for key in _VSPHERE if key in settings}
    return Config(**settings, vsphere=VsphereConfig(**own))


def _add_vsphere(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("vSphere").add_argument
    flag("--vsphere", metavar="HOST[:PORT]", help="the vCenter, or the ESXi if there is none")
    flag("--vsphere-user")
    flag("--vsphere-password-file", type=Path, help="a file with the password, which flags would show to everybody")
    flag(
        "--vsphere-token-file",
        type=Path,
        help="a SAML 2.0 bearer assertion rather than user and password, read at each login",
    )
    flag(
        "--vsphere-extension",
        metavar="KEY",
        help="log in as this extension of the vCenter's, by a certificate that is made and registered at first",
    )
    flag("--vsphere-ticket-file", type=Path, help="for that: a file with a ticket of SessionManager.AcquireCloneTicket")
    flag(
        "--vsphere-tunnel-port",
        type=int,
        help="of the vCenter, where extensions log in (80); 0: where all else is asked",
    )
    flag("--thumbprint", help="of the server's certificate, SHA-1 or SHA-256; else --vsphere-ca or the system's CAs")
    flag("--vsphere-ca", type=Path, help="a file with the CAs that the server's certificate may be from")
    flag("--tenant", help="in whose name machines are made, folders are called, and found again (vch)")
    flag("--datacenter")
    flag("--compute-resource", help="a cluster or host; CLUSTER/POOL/POOL for a resource pool of it")
    flag("--vm-folder", help="below the datacenter's folder of machines; the tenant's own is made in it")
    flag("--image-store", help="the datastore of images, machines and volumes")
    flag("--vm-firmware", choices=("bios", "efi"), help="that machines boot by (efi)")
    flag(
        "--vm-names",
        metavar="CONVENTION",
        help="what machines are called: text with {name}, {id}, {tenant} ({name}-{id})",
    )
    flag("--vm-group", help="a group of the cluster's that machines are in, for DRS rules; made if it is not there")
    flag("--bridge-network", help="the portgroup that containers are on")
    flag("--bridge-interface", help="this host's interface on that portgroup")
    flag("--vspc-listen", metavar="ADDRESS:PORT", help="where machines' serial ports are taken (0.0.0.0:2377)")
    flag("--vspc-address", help="how vSphere's hosts call us; else the address that we have towards vSphere")
    flag("--vspc-allow", action="append", metavar="CIDR", help="from where hosts may connect; else from everywhere")
    flag("--vspc-cert", type=Path, help="PEM: serial ports come by TLS then (telnets)")
    flag("--vspc-key", type=Path)
    flag(
        "--quick-port",
        type=int,
        help="on the bridge network, where guests come by TCP beside their serial ports (2378)",
    )


# Below "proxies" in the file.
_PROXY_KEYS = {"http-proxy": "http_proxy", "https-proxy": "https_proxy", "no-proxy": "no_proxy"}
_VSPHERE = tuple(field.name for field in fields(VsphereConfig))
_TLS = ("tls", "tlsverify", "tlscacert", "tlscert", "tlskey", "tls-allow")
_FILE_KEYS = (
    _PROXY_KEYS
    | {name: name.replace("-", "_") for name in _TLS}
    | {name.replace("_", "-"): name for name in _VSPHERE}
    | {
        "hosts": "hosts",
        "data-root": "data_root",
        "exec-root": "exec_root",
        "pidfile": "pidfile",
        "guest": "guest",
        "hypervisor": "hypervisor",
        "pause-by": "pause_by",
        "accel": "accel",
        "vm-memory": "vm_memory",
        "vm-cpus": "vm_cpus",
        "vm-template": "vm_template",
        "vm-pool": "vm_pool",
        "networking": "networking",
        "bridge": "bridge",
        "bip": "bip",
        "dns": "dns",
        "container-networks": "container_networks",
        "volume-stores": "volume_stores",
        "storage-quota": "storage_quota",
        "labels": "labels",
        "insecure-registries": "insecure_registries",
        "registry-mirrors": "registry_mirrors",
        "log-level": "log_level",
        "syslog-address": "syslog_address",
        "allow-registries": "allow_registries",
        "certs-dir": "certs_dir",
    }
)


def _read_file(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidParameter(f"unable to configure the daemon with file {path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("proxies", {}), dict):
        raise InvalidParameter(f"unable to configure the daemon with file {path}: it holds no settings")
    proxies = content.pop("proxies", {})
    content |= {key if key in _PROXY_KEYS else f"proxies.{key}": value for key, value in proxies.items()}
    unknown = set(content) - set(_FILE_KEYS)
    if unknown:
        raise InvalidParameter(
            f"the following directives don't match any configuration option: {', '.join(sorted(unknown))}"
        )
    if content.get("vm-template") in ("on", "off"):
        content["vm-template"] = content["vm-template"] == "on"
    paths = (
        "data_root",
        "exec_root",
        "pidfile",
        "guest",
        "certs_dir",
        "vsphere_password_file",
        "vsphere_token_file",
        "vsphere_ticket_file",
        "vsphere_ca",
        "vspc_cert",
        "vspc_key",
        "tlscacert",
        "tlscert",
        "tlskey",
    )
    return {_FILE_KEYS[key]: Path(value) if _FILE_KEYS[key] in paths else value for key, value in content.items()}
