"""The contract of a hypervisor driver. tests/appliance/hypervisor/contract.py is what every driver must pass."""

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import trio

from tether.transport import Line


class Power(enum.Enum):
    OFF = "off"
    ON = "on"


@dataclass(frozen=True, slots=True)
class Disk:
    """What is only read is a raw image file; what is written to is one of `Disks`, by its path."""

    path: Path
    read_only: bool


@dataclass(frozen=True, slots=True)
class DiskAddress:
    """Where a guest finds a disk: SCSI adapter (in the guest's order), target, LUN, partition of that (0: all of it).

    It may be `blank`: without a file system yet.
    """

    adapter: int
    target: int
    lun: int
    blank: bool = False
    partition: int = 0


@dataclass(frozen=True, slots=True)
class Forward:
    """A port of the host that is the guest's: where a NIC has no bridge, the hypervisor forwards it itself."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int


# The bridge of a NIC that is on none yet.
NO_BRIDGE = "-"


@dataclass(frozen=True, slots=True)
class Nic:
    """A network NIC on a bridge of the host; without a bridge, on a network of its own, by user-mode NAT.

    Such a network is a CIDR, and `forwards` lead into it. Addresses are given to the guest by its tether in both cases.
    `isolated`: on its bridge it reaches the host only.
    """

    mac: str
    network: str = ""
    gateway: str = ""
    dns: str = ""
    bridge: str = ""
    isolated: bool = False
    forwards: tuple[Forward, ...] = ()

    @property
    def kind(self) -> "Nic":
        """What it has in common with all that it can become while its machine runs."""
        if self.bridge:
            return Nic("", bridge=NO_BRIDGE)
        return replace(self, mac="", forwards=())


# What the guest calls the file system that shares are in.
SHARE_TAG = "vch"


@dataclass(frozen=True, slots=True)
class Share:
    """A directory or file of the host that the guest sees, under its number, in the virtiofs file system `SHARE_TAG`.

    `part` is a path below it that counts instead; no link in it leads out.
    """

    path: Path
    read_only: bool
    part: str = ""


# The shares of a machine that will have some: which, is said when it becomes somebody's.
SOME_SHARES = (Share(Path("/"), True),)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """`id` is 1 to 64 of [a-z0-9]; sizes in MiB. `more_nics` are at most 8 places behind `nic`, None an empty one.

    `name` is for whoever looks at machines: nothing is found by it.
    """

    id: str
    memory_mib: int
    cpus: int
    disks: tuple[Disk, ...] = ()
    nic: Nic | None = None
    more_nics: tuple[Nic | None, ...] = ()
    shares: tuple[Share, ...] = ()
    name: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a machine takes of its host: processor time so far, ns; memory, bytes."""

    cpu_ns: int
    memory: int


class Machine(ABC):
    """One VM. `power` is the hypervisor's word; the engine never guesses it. `spec` is what it is made to."""

    id: str
    spec: MachineSpec
    # How many of its first NICs may have another address than its spec's, until the guest gives it to them.
    unmatched_nics = 0

    @abstractmethod
    async def start(self) -> None:
        """Power on. HypervisorError with the hypervisor's own words when it refuses."""

    @abstractmethod
    async def kill(self) -> None:
        """Power off now. Idempotent. Returns once `power` is OFF."""

    @abstractmethod
    async def wait_off(self) -> None:
        """Return when the machine is off, whoever did it."""

    @abstractmethod
    async def destroy(self) -> None:
        """Kill it and remove all of it that the driver made (not its disks). Idempotent."""

    @abstractmethod
    async def power(self) -> Power: ...

    @abstractmethod
    async def dial_tether(self) -> Line:
        """Open the byte line to the tether. One at a time: an earlier one is to be closed first."""

    @abstractmethod
    def disk_addresses(self) -> list[DiskAddress]:
        """Where the guest finds the disks of its spec, in their order; valid once it was started."""

    @abstractmethod
    async def usage(self) -> Usage:
        """Zeros for one that is off."""

    @abstractmethod
    def last_words(self) -> str:
        """The end of the console and of the hypervisor's own messages, for an error text; may be empty."""


@runtime_checkable
class Checkpointable(Protocol):
    """A machine whose whole state can be kept: memory, devices and what its writable disks hold, of one moment."""

    async def save_to(self, folder: Path, at_rest: Callable[[], None], *, go_on: bool) -> None:
        """Keep the state in `folder`, which is empty. The machine stands still meanwhile; then it goes on, or is killed.

        `at_rest` is called when it stands still.

        HypervisorError or OSError when it cannot be kept: the machine goes on, and what is in the folder is of no use.
        """

    async def start_from(self, folder: Path) -> None:
        """Power on into a kept state, instead of `start`; the machine's writable disks become those that were kept.

        HypervisorError when the state is damaged, not ours, or does not fit this machine; the disks are as before then.
        """


@runtime_checkable
class Pluggable(Protocol):
    """A machine whose NICs can be changed while it runs; its spec's `more_nics` are those that it has."""

    async def plug_nic(self, nic: Nic) -> None:
        """Add a NIC; the guest sees it some moments later. HypervisorError when there is no room or QEMU refuses."""

    async def unplug_nic(self, mac: str) -> None:
        """Take away a NIC; returns when the guest has let go of it. HypervisorError when it does not."""

    async def set_forwards(self, mac: str, forwards: tuple[Forward, ...]) -> None:
        """Let a NIC without a bridge have these forwards and no others. HypervisorError names what cannot be."""


@dataclass(frozen=True, slots=True)
class PlacementState:
    """What others can do to a machine in the hypervisor's own client: its name there, on which host it is (a key), suspended or not."""

    name: str = ""
    host: str = ""
    suspended: bool = False


@runtime_checkable
class Suspendable(Protocol):
    """A machine that can be put to sleep, its memory on disk; it is on then, as far as `power` is concerned."""

    @property
    def placement(self) -> PlacementState:
        """As far as it has been told; what is not known yet is empty."""

    async def wait_changed(self, than: PlacementState) -> PlacementState:
        """Wait until it stands otherwise, by whomever."""

    async def host_name(self, host: str) -> str:
        """What a host is called, "" when it is not known."""

    async def suspend(self) -> None:
        """Put it to sleep. HypervisorError when it cannot be."""

    async def resume(self) -> None:
        """Wake it up: it goes on where it was. Nothing happens to one that is awake."""


@dataclass(frozen=True, slots=True)
class ResourceShares:
    """What a machine gets when its host has too little for all: CPU shares (1024 is usual; 0: as usual), memory kept for it, MiB."""

    cpu_shares: int = 0
    memory_mib: int = 0


@runtime_checkable
class SetShares(Protocol):
    """A machine that shares its host with others by weight, running or not."""

    async def set_shares(self, weight: ResourceShares) -> None:
        """Set its weight. HypervisorError when the host cannot keep what is asked for."""


@runtime_checkable
class Adaptable(Protocol):
    """A machine that runs and is nobody's yet."""

    def in_background(self, background: bool) -> None:
        """Whether others go first on the host's cores."""

    async def become(self, spec: MachineSpec) -> None:
        """Turn into the machine of this spec, of its own size and network: its name, its disks. It goes on running.

        HypervisorError when it cannot; what it is then is undefined, but it can be destroyed.
        """


class Rehearsal(Protocol):
    """Brings a guest to where any container can begin."""

    @property
    def layer(self) -> Path:
        """The file that is the disk which it only reads."""

    def perform(
        self, line: Line, kind: MachineSpec, disks: list[DiskAddress]
    ) -> AbstractAsyncContextManager[trio.Event]:
        """Rehearse as machines of this kind can, with a disk to write to and that of the layer.

        In the block the guest is blank and idle, and its line open, until the event that it gets; it is closed at the block's end.
        """


@runtime_checkable
class Cloning(Protocol):
    """Restores machines from one that was booted before."""

    def want(self, kind: MachineSpec) -> None:
        """Machines of this kind will be started: have a template before that."""

    async def create_blank(self, kind: MachineSpec) -> Machine | None:
        """A running machine of this kind that is nobody's, an Adaptable; None while there is no template."""


class Driver(ABC):
    @abstractmethod
    async def connect(self) -> None:
        """Check that machines can be made here. HypervisorError says what is missing."""

    @abstractmethod
    async def create(self, spec: MachineSpec) -> Machine: ...

    @abstractmethod
    async def adopt(self) -> list[Machine]:
        """The machines that are already there, running or not: a restarted appliance finds its VMs."""

    def why_no_shares(self) -> str:
        """Why machines of this driver cannot have shares; "" when they can."""
        return "this hypervisor's hosts are not where the daemon is"

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Name, version, acceleration: for `docker info`."""
