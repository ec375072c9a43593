"""The settings of one `vchd`, typed. Each field is also a row of the table of settings: see README.md here."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

from appliance.config import rows
from appliance.config.builder import BuilderConfig
from appliance.config.container_network import LEVELS, parse_container_network
from appliance.config.parsers import (
    check_interface_address,
    check_pool,
    check_syslog_server,
    check_vm_cpus,
    check_vm_memory,
    parse_rule,
    parse_size,
    parse_ulimit,
    parse_volume_store,
    ulimits_of_object,
)
from appliance.config.rows import Option, Property, setting
from appliance.config.vsphere import VsphereConfig
from appliance.hypervisors import HYPERVISORS
from appliance.roles import ROLE_NAMES

_PACKAGED_GUEST = Path("/usr/share/vch/guest")


def default_guest() -> Path:
    """The guest that `make setup` put beside the interpreter, else the folder of a package."""
    beside = Path(sys.prefix) / "share/vch/guest"
    return beside if beside.exists() else _PACKAGED_GUEST


def _docker_certificate(name: str) -> Path:
    """A file in the folder where Docker's client keeps its certificates."""
    return Path(os.environ.get("DOCKER_CERT_PATH") or Path.home() / ".docker") / name


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of vchd. The flags and keys of each are in `vchd --help`."""

    hosts: tuple[str, ...] = setting(
        ("unix:///var/run/docker.sock",),
        rows.DAEMON,
        "Listen on unix:///path or tcp://address:port (default: unix:///var/run/docker.sock)",
        flags=("-H", "--host"),
    )
    data_root: Path = setting(Path("/var/lib/vch"), rows.DAEMON, "Folder of images, containers, volumes and state")
    exec_root: Path = setting(Path("/var/run/vch"), rows.DAEMON, "Folder of the sockets and files of running VMs")
    pidfile: Path | None = setting(None, rows.DAEMON, "File for the process id of vchd", flags=("-p", "--pidfile"))
    guest: Path = setting(
        _PACKAGED_GUEST,
        rows.DAEMON,
        "Folder of the guest image (vmlinux and initrd), as build/guest/image.py makes it",
        factory=default_guest,
    )
    labels: tuple[str, ...] = setting(
        (),
        rows.DAEMON,
        "Label of the daemon, which docker info shows",
        flags=("--label",),
        metavar="NAME=VALUE",
        property=Property(label="Labels"),
        option=Option(names=("--label",)),
    )
    docker_socket_default: str = setting(
        "full",
        rows.DAEMON,
        "Role of the API socket that a container mounts, unless its label vch.docker-socket names a role: none, read, files, registry, "
        "scoped (only the objects that the container has made), or full, as in Docker",
        choices=ROLE_NAMES,
        property=Property(label="Role of API sockets in containers", default="scoped"),
        option=Option(names=("--docker-socket-default",)),
    )
    vsphere: VsphereConfig = VsphereConfig()
    builder: BuilderConfig = BuilderConfig()
    hypervisor: str = setting(
        "qemu",
        rows.MACHINES,
        "Where VMs run: on this host (qemu), or on the hosts of a vCenter or ESXi (vsphere)",
        choices=tuple(HYPERVISORS),
    )
    accel: str = setting(
        "auto", rows.MACHINES, "CPU virtualisation of QEMU; auto: KVM where it works", choices=("auto", "kvm", "tcg")
    )
    vm_memory: int | None = setting(
        None,
        rows.MACHINES,
        "Memory, in MiB, of a VM whose container has no memory limit (default: 2304, of which the container has 2 GiB; with QEMU at most "
        "half of the host's memory). QEMU takes from the host what the guest touches",
        metavar="MIB",
        check=check_vm_memory,
        property=Property(
            label="VM memory",
            help="Memory, in MiB, of a VM whose container has no memory limit; empty for 2304, of which the container has 2 GiB",
        ),
        option=Option(names=("--container-memory",)),
    )
    vm_cpus: int | None = setting(
        None,
        rows.MACHINES,
        "CPUs of a VM (default: as many as the host of vchd has). The cgroup limits the container to less",
        metavar="COUNT",
        check=check_vm_cpus,
        property=Property(
            label="VM CPUs",
            help="CPUs of a VM; empty for as many as the appliance has",
        ),
        option=Option(names=("--container-cpus",)),
    )
    vm_template: bool = setting(
        True,
        rows.MACHINES,
        "Restore VMs from the memory of a booted template VM (on), or boot each VM (off)",
        metavar="on|off",
    )
    vm_pool: int | None = setting(
        None,
        rows.MACHINES,
        "VMs that are ready for containers to come (default: 1 if the host has the memory, else 0; 0 on vSphere). On vSphere they are "
        "instant clones, which need vCenter 6.7 or later",
        metavar="COUNT",
        property=Property(
            label="VM pool",
            help="VMs that are ready for containers to come: instant clones, which need vCenter 6.7 or later",
            default="0",
            check=check_pool,
        ),
        option=Option(names=("--container-pool",)),
    )
    default_ulimits: tuple[str, ...] = setting(
        (),
        rows.MACHINES,
        "Ulimit of containers that do not set this ulimit themselves, for example nofile=1024:2048",
        flags=("--default-ulimit",),
        metavar="NAME=SOFT[:HARD]",
        check=parse_ulimit,
        from_object=ulimits_of_object,
        property=Property(
            label="Default ulimits",
            help="Ulimits of containers that do not set these ulimits themselves: NAME=SOFT or NAME=SOFT:HARD",
        ),
        option=Option(names=("--default-ulimit",)),
    )
    pause_by: str = setting(
        "freeze",
        rows.MACHINES,
        "What docker pause does: stop the processes (freeze), or suspend the VM, which frees its memory (suspend; vSphere only)",
        choices=("freeze", "suspend"),
    )
    networking: str = setting(
        "auto",
        rows.NETWORKS,
        "Bridges of the host (bridge), NAT inside each VM's QEMU (user), or bridges where vchd has the right to make them (auto)",
        choices=("auto", "bridge", "user"),
    )
    bridge: str = setting(
        "vch0",
        rows.NETWORKS,
        "Bridge of the default network; the nftables tables have its name, too",
        flags=("-b", "--bridge"),
    )
    bip: str = setting(
        "",
        rows.NETWORKS,
        "Address and prefix of the default network's gateway (default: 172.17.0.1/16, or the next subnet that the host does not use)",
        metavar="ADDRESS/PREFIX",
        property=Property(label="Bridge address", check=check_interface_address),
        option=Option(names=("--bip", "--bridge-network-range")),
    )
    dns: tuple[str, ...] = setting((), rows.NETWORKS, "DNS server of containers (default: the servers of the host)")
    container_networks: tuple[str, ...] = setting(
        (),
        rows.NETWORKS,
        "A network outside vch that containers may join by --network NAME: a portgroup, or a bridge of this host (bridge=BRIDGE). "
        f"Addresses come from DHCP unless there is a subnet. Firewall levels: {', '.join(LEVELS)} (default: published)",
        flags=("--container-network",),
        metavar="name=NAME,portgroup=PORTGROUP[,subnet=CIDR,gateway=IP,range=IP-IP,dns=IP,firewall=LEVEL]",
        check=parse_container_network,
        property=Property(
            label="Container networks",
            help="Portgroups that containers may join by --network NAME: "
            "name=NAME,portgroup=PORTGROUP,subnet=CIDR,gateway=IP,range=IP-IP,dns=IP,firewall=LEVEL. Addresses come from DHCP unless "
            f"there is a subnet. Firewall levels: {', '.join(LEVELS)} (default: published)",
            separator=";",
        ),
        option=Option(names=("--container-network", "-cn")),
    )
    volume_stores: tuple[str, ...] = setting(
        (),
        rows.STORAGE,
        "Further place for volumes, for docker volume create -o VolumeStore=NAME: a vSphere datastore or a path of an NFS server",
        flags=("--volume-store",),
        metavar="NAME=DATASTORE|NAME=nfs://SERVER/PATH?uid=UID&gid=GID",
        check=parse_volume_store,
        property=Property(
            label="Volume stores",
            help="Further places for volumes: NAME=DATASTORE or NAME=nfs://SERVER/PATH?uid=UID&gid=GID",
        ),
        option=Option(names=("--volume-store",)),
    )
    storage_quota: int = setting(
        0,
        rows.STORAGE,
        "Limit of the bytes that images and containers use together, for example 100g; volumes do not count (default: no limit)",
        metavar="SIZE",
        parse=parse_size,
        property=Property(label="Storage quota"),
        option=Option(names=("--storage-quota",)),
    )
    insecure_registries: tuple[str, ...] = setting(
        (),
        rows.REGISTRIES,
        "Registry, or subnet of registries, that may use HTTP or a certificate that no CA vouches for",
        flags=("--insecure-registry",),
        property=Property(label="Insecure registries"),
        option=Option(names=("--insecure-registry",)),
    )
    registry_mirrors: tuple[str, ...] = setting(
        (),
        rows.REGISTRIES,
        "Mirror of Docker Hub to pull from first",
        flags=("--registry-mirror",),
        property=Property(label="Registry mirrors"),
        option=Option(names=("--registry-mirror",)),
    )
    allow_registries: tuple[str, ...] = setting(
        (),
        rows.REGISTRIES,
        "Registry that may be used (default: every registry)",
        flags=("--allow-registry",),
        property=Property(label="Allowed registries"),
        option=Option(names=("--allow-registry", "--whitelist-registry")),
    )
    certs_dir: Path = setting(
        Path("/etc/docker/certs.d"),
        rows.REGISTRIES,
        "Folder with a folder for each registry: its CAs (*.crt) and client certificates (*.cert, *.key)",
    )
    http_proxy: str = setting(
        "",
        rows.REGISTRIES,
        "Proxy for registries without TLS (default: $HTTP_PROXY)",
        section="proxies",
        property=Property(label="HTTP proxy", help="Proxy for registries without TLS"),
        option=Option(names=("--http-proxy",)),
    )
    https_proxy: str = setting(
        "",
        rows.REGISTRIES,
        "Proxy for registries with TLS (default: $HTTPS_PROXY)",
        section="proxies",
        property=Property(label="HTTPS proxy", help="Proxy for registries with TLS"),
        option=Option(names=("--https-proxy",)),
    )
    no_proxy: str = setting(
        "",
        rows.REGISTRIES,
        "Hosts to reach without a proxy: names, addresses and subnets, separated by commas (default: $NO_PROXY)",
        section="proxies",
        property=Property(
            label="No proxy for",
            help="Hosts to reach without a proxy: names, addresses and subnets, separated by commas",
        ),
        option=Option(names=("--no-proxy",)),
    )
    log_level: str = setting(
        "info",
        rows.LOGGING,
        "Least severe messages that vchd logs: debug, info, warn, error or fatal",
        flags=("-l", "--log-level"),
        choices=("debug", "info", "warn", "error", "fatal"),
        property=Property(label="Log level"),
        option=Option(names=("--log-level",)),
    )
    syslog_address: str = setting(
        "",
        rows.LOGGING,
        "Syslog server to which vchd sends its own log, too (for the logs of containers use --log-driver syslog)",
        metavar="udp|tcp|tcp+tls://HOST[:PORT]",
        check=check_syslog_server,
        property=Property(
            label="Syslog server",
            help="Syslog server to which vchd sends its own log, too: udp, tcp or tcp+tls://HOST[:PORT]",
        ),
        option=Option(names=("--syslog-address",)),
    )
    tls: bool | None = setting(
        None,
        rows.TLS,
        "Use TLS on tcp:// sockets; --tlsverify implies it. A tcp:// socket without TLS needs an explicit --tls=false",
    )
    tlsverify: bool = setting(
        False,
        rows.TLS,
        "Use TLS, and require a client certificate of a CA of --tlscacert",
        property=Property(
            label="Verify clients",
            key="tls-verify",
            help="Require a client certificate. Without verification every client that reaches the API has full access",
            default="true",
            type="boolean",
            translated=False,
        ),
    )
    tlscacert: Path = setting(
        Path("ca.pem"),
        rows.TLS,
        "File with the CAs of clients (default: ca.pem in $DOCKER_CERT_PATH or ~/.docker)",
        factory=lambda: _docker_certificate("ca.pem"),
        property=Property(
            label="CA of clients",
            key="tls-ca",
            help="CAs of clients. The API needs a CA, unless client verification is off",
            content="certificates",
            file="ca.pem",
        ),
        option=Option(names=("--tls-ca",)),
    )
    tlscert: Path = setting(
        Path("cert.pem"),
        rows.TLS,
        "File with the API's certificate (default: cert.pem in the same folder)",
        factory=lambda: _docker_certificate("cert.pem"),
        property=Property(
            label="Certificate",
            key="tls-cert",
            help="The API's certificate (default: the CA of vch create signs one, else the appliance itself)",
            content="certificates",
            file="cert.pem",
        ),
        option=Option(names=("--tls-server-cert",)),
    )
    tlskey: Path = setting(
        Path("key.pem"),
        rows.TLS,
        "File with the key of the API's certificate (default: key.pem in the same folder)",
        factory=lambda: _docker_certificate("key.pem"),
        property=Property(
            label="Key",
            key="tls-key",
            help="Key of the API's certificate",
            content="private key",
            secret=True,
            file="key.pem",
        ),
        option=Option(names=("--tls-server-key",)),
    )
    tls_allow: tuple[str, ...] = setting(
        (),
        rows.TLS,
        "Access rule: ROLE:CN=NAME or ROLE:OU=UNIT of the client certificate's subject; the roles are none, read, files, registry, "
        "scoped and full. The most generous rule that matches counts. A client that matches no rule is denied (default: every "
        "authenticated client has full access)",
        metavar="RULE",
        check=parse_rule,
        property=Property(label="Access rules"),
        option=Option(names=("--tls-allow",)),
    )
    # Not a row: the cache is where XDG says.
    cache: Path = field(default_factory=_cache)
