"""What a guest receives: mounts, network, files, processes. Plain values; `encode.py` makes protobuf messages of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.hypervisor import GuestDisk


@dataclass(frozen=True, slots=True)
class PlainMount:
    """mount(2) of a file system without a device, such as tmpfs, or a bind of `source`. Paths are absolute paths in the guest."""

    target: str
    type: str
    options: Sequence[str] = ()
    source: str = ""


@dataclass(frozen=True, slots=True)
class DiskMount:
    """A file system on a disk. If the disk is blank, the guest formats it with `format_options`, those of mke2fs."""

    target: str
    type: str
    disk: GuestDisk
    options: Sequence[str] = ()
    format_options: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class OverlayMount:
    """overlayfs of the directories `lower`, highest first; `upper` holds upper/ and work/."""

    target: str
    lower: Sequence[str]
    upper: str


@dataclass(frozen=True, slots=True)
class ShareMount:
    """virtiofs of the share with this tag."""

    target: str
    tag: str


GuestMount = PlainMount | DiskMount | OverlayMount | ShareMount


@dataclass(frozen=True, slots=True)
class GuestVolume:
    """A volume or bind mount that the guest prepares before a process starts.

    `source` is a path in the guest, `destination` one in the container's root. `copy_up`: copy what the image has at `destination`
    into an empty source. `make`: create the source directory. With a `type`, the guest mounts `device` at the source first.
    """

    source: str
    destination: str
    read_only: bool
    copy_up: bool
    make: bool
    type: str = ""
    device: str = ""
    options: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class GuestSocket:
    """A unix socket at which the guest listens. `mode` has the permission bits; `number` is unique in the guest."""

    number: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class StateFile:
    """A file in the tether's state directory that processes see, such as hosts. `mode` has the permission bits."""

    name: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Interface:
    """One NIC. The guest finds it by `mac`, or, if `set_mac`, by its position `index`, and then gives it that MAC.

    `addresses` are CIDRs, `gateways` the next hops of default routes, `mtu` is in bytes (0: unchanged). `dhcp`: addresses come
    from a DHCP server; `dhcp_route`: the default route, too.
    """

    mac: str
    name: str
    addresses: Sequence[str]
    gateways: Sequence[str] = ()
    mtu: int = 0
    index: int = 0
    set_mac: bool = False
    dhcp: bool = False
    dhcp_route: bool = False


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """All NICs of a guest. `filter` is one nf_tables transaction, as nfnetlink messages; empty leaves the rules."""

    interfaces: Sequence[Interface] = ()
    filter: bytes = b""


@dataclass(frozen=True, slots=True)
class GuestSetup:
    """What turns a blank guest into one container's. Mounts are made in order; `modules` are kernel modules."""

    machine_id: str
    hostname: str = ""
    domainname: str = ""
    mounts: Sequence[GuestMount] = ()
    volumes: Sequence[GuestVolume] = ()
    network: NetworkConfig | None = None
    modules: Sequence[str] = ()
    files: Sequence[StateFile] = ()


@dataclass(frozen=True, slots=True)
class GuestAddition:
    """What a guest gets for a further container. `id` is the container's; mounts are made in order; `modules` are kernel modules.

    With `own_network` the container has a network namespace of its own, with the NICs of `network`.
    """

    id: str
    hostname: str = ""
    mounts: Sequence[GuestMount] = ()
    volumes: Sequence[GuestVolume] = ()
    network: NetworkConfig | None = None
    modules: Sequence[str] = ()
    files: Sequence[StateFile] = ()
    own_network: bool = False


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a guest receives when its VM is resumed, perhaps on another host. Empty fields leave the guest's state.

    `close_connections`: end all TCP connections that leave the machine. `container`: the ID of the container whose files these are;
    "" for the first container of the machine.
    """

    network: NetworkConfig | None = None
    files: Sequence[StateFile] = ()
    close_connections: bool = False
    container: str = ""


@dataclass(frozen=True, slots=True)
class ProcessSetup:
    """A process to start. `spec` is an OCI runtime spec, JSON; `join` the process whose namespaces it enters, "" for none.

    A container's first process shares single namespaces with the processes `network_of`, `pid_of` and `ipc_of`; "" for none.

    `spool_bytes` of output wait in the guest for their acknowledgement (0: the guest's default); when they are full,
    `drop_oldest` drops output instead of blocking the process. `rows` and `columns` are the first size of a terminal.
    """

    id: str
    spec: bytes
    join: str = ""
    stdin: bool = False
    spool_bytes: int = 0
    drop_oldest: bool = False
    rows: int = 0
    columns: int = 0
    network_of: str = ""
    pid_of: str = ""
    ipc_of: str = ""
