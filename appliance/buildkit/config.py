"""What buildkitd gets to start: buildkitd.toml, and a shell script that divides the machine's memory and starts it. Pure.

Sources: cmd/buildkitd/config/config.go and util/resolver/config of BuildKit.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

# Where the builder's container has the files of one life: a tmpfs, which no RUN sees.
FOLDER = "/run/vch"
SOCKET = "/run/buildkit/buildkitd.sock"
# RUNs share the ports of the machine. This port is none of the usual ones, and outside of the range of outgoing connections.
PORT = 17219
# The container's entrypoint waits for this file, which is written last.
READY = f"{FOLDER}/ready"
ENTRYPOINT = ("/bin/sh", "-c", f"until [ -e {READY} ]; do sleep 0.05; done; exec /bin/sh {FOLDER}/start")
# The cgroup of all RUNs, below that of the container: a RUN that forks or allocates without end meets its limits before buildkitd does.
_RUN_CGROUP = "/run"
_RUN_PIDS = 4096
_KEPT_FOR_BUILDKITD = 256 << 20
# The addresses of RUNs behind the builder's own NAT: a range that no network uses (RFC 2544, for benchmarks).
_BRIDGE_SUBNET = "198.18.0.0/22"
# Entries of BuildKit's own history of builds.
_HISTORY = 50


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """How buildkitd talks to one registry host. `mirrors` are asked first: "HOST[:PORT][/PATH]".

    `insecure`: any certificate, or plain HTTP. `certificates` is a folder of the builder with CAs (*.crt) and client
    certificates (*.cert, *.key).
    """

    host: str
    mirrors: tuple[str, ...] = ()
    insecure: bool = False
    certificates: str = ""


@dataclass(frozen=True, slots=True)
class DoorAccess:
    """How buildkitd reaches the door: "HOST:PORT", and the paths of the CA, of its certificate, and of its key, in the builder.

    At its own TCP port buildkitd shows the same certificate, and accepts clients that have one of the same CA.
    """

    host: str
    authority: str
    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class BuildkitSettings:
    """`parallelism`: RUNs at the same time. `environment` is buildkitd's, such as proxies; it may hold secrets.

    `port` is the TCP port of buildkitd; with 0 there is only its unix socket.
    """

    door: DoorAccess
    parallelism: int
    registries: Sequence[RegistrySettings] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    port: int = 0


def buildkitd_toml(settings: BuildkitSettings) -> str:
    """The text of buildkitd.toml."""
    door = settings.door
    addresses = [f"unix://{SOCKET}"]
    tls: list[str] = []
    if settings.port:
        addresses.append(f"tcp://0.0.0.0:{settings.port}")
        # With a CA, buildkitd demands a certificate of each client that comes by TCP.
        files = (("ca", door.authority), ("cert", door.certificate), ("key", door.key))
        tls = ["[grpc.tls]", *(f"  {name} = {_text(path)}" for name, path in files)]
    lines = [
        # Never security.insecure: such a RUN could read the keys of the door.
        'insecure-entitlements = ["network.host"]',
        "[grpc]",
        f"  address = [{', '.join(map(_text, addresses))}]",
        *tls,
        "[worker.containerd]",
        "  enabled = false",
        "[worker.oci]",
        "  enabled = true",
        "  gc = true",
        '  maxUsedSpace = "80%"',
        '  minFreeSpace = "5%"',
        f"  max-parallelism = {settings.parallelism}",
        # That of the container. The start script prefers a bridge, where the image has what makes one.
        '  networkMode = "host"',
        f"  bridgeSubnet = {_text(_BRIDGE_SUBNET)}",
        # BuildKit uses the namespace of an earlier RUN again: only RUNs at the same time wait for a new one.
        "  cniPoolSize = 1",
        f'  defaultCgroupParent = "{_RUN_CGROUP}"',
        "[history]",
        f"  maxEntries = {_HISTORY}",
        f"[registry.{_text(door.host)}]",
        f"  ca = [{_text(door.authority)}]",
        f"  [[registry.{_text(door.host)}.keypair]]",
        f"    key = {_text(door.key)}",
        f"    cert = {_text(door.certificate)}",
    ]
    for registry in settings.registries:
        lines.append(f"[registry.{_text(registry.host)}]")
        if registry.mirrors:
            lines.append(f"  mirrors = [{', '.join(map(_text, registry.mirrors))}]")
        if registry.insecure:
            # With both of them BuildKit tries TLS with any certificate first, then plain HTTP, as dockerd does.
            lines += ["  http = true", "  insecure = true"]
        if registry.certificates:
            lines.append(f"  tlsconfigdir = [{_text(registry.certificates)}]")
    return "\n".join(lines) + "\n"


def start_script(settings: BuildkitSettings) -> str:
    """The script that becomes buildkitd. It needs a POSIX shell, cat and mkdir, and cgroup v2 with the container as its root."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in sorted(settings.environment.items())]
    lines = [
        "set -e",
        "cgroup=/sys/fs/cgroup",
        f"mkdir -p $cgroup/init $cgroup{_RUN_CGROUP}",
        # A cgroup with processes of its own cannot limit its children.
        "for process in $(cat $cgroup/cgroup.procs); do",
        "  echo $process > $cgroup/init/cgroup.procs 2>/dev/null || :",
        "done",
        "for controller in $(cat $cgroup/cgroup.controllers); do",
        # Those of memory and pids have to be there, see below.
        "  echo +$controller > $cgroup/cgroup.subtree_control || :",
        "done",
        "while read -r name size unit; do",
        '  if [ "$name" = MemTotal: ]; then total=$((size * 1024)); fi',
        "done < /proc/meminfo",
        "limit=max",
        "if [ -e $cgroup/memory.max ]; then limit=$(cat $cgroup/memory.max); fi",
        'if [ "$limit" = max ] || [ "$limit" -gt "$total" ]; then limit=$total; fi',
        f"echo $((limit - {_KEPT_FOR_BUILDKITD})) > $cgroup{_RUN_CGROUP}/memory.max",
        f"echo {_RUN_PIDS} > $cgroup{_RUN_CGROUP}/pids.max",
        *exports,
        "network=host",
        # The names of BuildKit's own CNI plugins, which need the NAT of the kernel (util/network/cniprovider/bridge.go).
        "if command -v buildkit-cni-bridge >/dev/null && iptables -w -t nat -S >/dev/null; then network=bridge; fi",
        f"exec buildkitd --config {FOLDER}/buildkitd.toml --oci-worker-net $network",
    ]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    """A basic string of TOML."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
