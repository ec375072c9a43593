"""The contract of a hypervisor driver. README.md in this folder says how to write one.

Every driver implements `Driver` and `Machine` completely. What only some hypervisors can do is a Protocol in `capabilities`.
tests/appliance/hypervisor/contract.py holds the tests that every driver passes.
"""

import enum
import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path

from tether.transport import Line


class Power(enum.Enum):
    OFF = "off"
    ON = "on"


# -- disks --------------------------------------------------------------------------------------------------------------


# The path of a disk that was released: its place in `MachineSpec.disks` stays empty.
RELEASED = Path("-")


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of a machine. A read-only disk is a raw image file; a writable disk is one of `Disks`, by its path."""

    path: Path
    read_only: bool

    @property
    def released(self) -> bool:
        """Whether the machine has no longer a disk in this place: see TakesDisks."""
        return self.path == RELEASED


@dataclass(frozen=True, slots=True)
class ScsiAddress:
    """A SCSI disk: the adapter's index in the order in which the guest numbers adapters, target, LUN.

    `partition` counts from 1; 0 is the whole disk.
    """

    adapter: int
    target: int
    lun: int
    partition: int = 0


@dataclass(frozen=True, slots=True)
class VirtioBlkSerial:
    """A virtio-blk disk by its serial number, at most 20 bytes of ASCII. `partition`: see ScsiAddress."""

    serial: str
    partition: int = 0


@dataclass(frozen=True, slots=True)
class VirtioBlkPci:
    """A virtio-blk disk by the PCI address of its device, such as "0000:00:05.0". `partition`: see ScsiAddress."""

    pci: str
    partition: int = 0


# Where a guest finds a disk. Device names such as /dev/sda do not serve: they follow the order of discovery.
DiskAddress = ScsiAddress | VirtioBlkSerial | VirtioBlkPci


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """A disk as the guest finds it. The guest makes a file system on a `blank` disk before it mounts the disk."""

    address: DiskAddress
    blank: bool = False


# -- network ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Forward:
    """A host port that the hypervisor forwards into the guest, for a NIC without a bridge. `protocol` is tcp or udp."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int


# The `bridge` of a NIC that is on no bridge yet and will be put on one.
NO_BRIDGE = "-"


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface card on `bridge`; without a bridge, on a private user-mode network with NAT.

    `network` is the CIDR of the private network, `gateway` and `dns` are its addresses, `forwards` are ports of the host that
    lead into it. The tether configures the guest's own addresses in both cases. An `isolated` NIC reaches the host through its
    bridge, and no other machine.
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
        """What the NIC keeps for as long as its machine runs, whichever network it is moved to."""
        if self.bridge:
            return Nic("", bridge=NO_BRIDGE)
        return replace(self, mac="", forwards=())


# -- shares -------------------------------------------------------------------------------------------------------------

# The tag of the virtiofs file system that holds all shares of a machine. Shares that are plugged in later have tags of their own.
SHARE_TAG = "vch"


@dataclass(frozen=True, slots=True)
class Share:
    """A directory or file of the host. The guest sees it in the file system `SHARE_TAG`, by its index in `MachineSpec.shares`.

    With `part`, a path below `path`, only that part is shared. No symbolic link in `part` leads out of `path`. `recursive`: with the
    mounts below the path. `cached`: the guest may keep names and attributes for a second, in which it does not see changes of
    others. The guest caches nothing if one of a machine's shares is not `cached`.
    """

    path: Path
    read_only: bool
    part: str = ""
    recursive: bool = True
    cached: bool = False


# The shares of a machine in the pool: the machine will have shares, and `Adaptable.become` says which.
SOME_SHARES = (Share(Path("/"), True),)


# -- machines -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """What a machine is made of. `id` is 1 to 64 of [a-z0-9]; memory is in MiB.

    `more_nics` are at most 8 further NICs in their slots; None is an empty slot. `name` is for people who look at machines in the
    hypervisor's own client: nothing is looked up by name. A machine that `grows` is made so that it can take disks and shares of
    other containers later. `more_disks` (None is an empty place) and `more_shares` were plugged in while the machine ran. `pci_devices`:
    see TakesPciDevices.
    """

    id: str
    memory_mib: int
    cpus: int
    disks: tuple[Disk, ...] = ()
    nic: Nic | None = None
    more_nics: tuple[Nic | None, ...] = ()
    shares: tuple[Share, ...] = ()
    name: str = ""
    more_disks: tuple[Disk | None, ...] = ()
    more_shares: tuple[tuple[Share, ...], ...] = ()
    grows: bool = False
    pci_devices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a machine uses of its host: CPU time since power-on in ns, memory in bytes."""

    cpu_ns: int
    memory: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the largest machine can have: CPUs, and memory in bytes."""

    cpus: int
    memory: int


def own_capacity() -> Capacity:
    """The CPUs and the memory of this host."""
    return Capacity(os.cpu_count() or 1, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


class Machine(ABC):
    """One VM. `power` is the hypervisor's answer; the engine never guesses it. `spec` is what the machine was made of.

    `unmatched_nics`: the guest gives the first `unmatched_nics` NICs the MAC addresses of `spec`. Until then these NICs may have
    other MAC addresses, because the machine was restored from a template.
    """

    id: str
    spec: MachineSpec
    unmatched_nics: int

    @abstractmethod
    async def start(self) -> None:
        """Power on. HypervisorError holds the hypervisor's own words when the hypervisor refuses."""

    @abstractmethod
    async def kill(self) -> None:
        """Power off now. Idempotent. Returns once `power` is OFF."""

    @abstractmethod
    async def wait_off(self) -> None:
        """Return when the machine is off, whatever caused it."""

    @abstractmethod
    async def destroy(self) -> None:
        """Power off and remove everything that the driver made for the machine, except its writable disks. Idempotent."""

    @abstractmethod
    async def power(self) -> Power: ...

    @abstractmethod
    async def dial_tether(self) -> Line:
        """Open the byte line to the tether. HypervisorError when the machine is off.

        A machine has one line at a time: the caller closes the earlier line first.
        """

    @abstractmethod
    def guest_disks(self) -> list[GuestDisk]:
        """Where the guest finds the disks of `spec`, in the order of `spec`. Valid once the machine was started."""

    @abstractmethod
    async def usage(self) -> Usage:
        """Return what the machine uses; zeros while the machine is off."""

    @abstractmethod
    def last_words(self) -> str:
        """The end of the console and of the hypervisor's messages, for an error text; may be empty."""


class Driver(ABC):
    @abstractmethod
    async def connect(self) -> None:
        """Check that machines can be created. HypervisorError says what is missing."""

    @abstractmethod
    async def create(self, spec: MachineSpec) -> Machine:
        """Create a machine, which is off. HypervisorError says why the hypervisor refuses."""

    @abstractmethod
    async def adopt(self) -> list[Machine]:
        """Return the machines that exist already, running or not: a restarted appliance finds its VMs.

        The machines of this driver object's own `create` may be left out.
        """

    @abstractmethod
    async def capacity(self) -> Capacity:
        """What a host of this hypervisor has for one machine. No error: the last known values count while there are no others."""

    @abstractmethod
    def describe(self) -> dict[str, str]:
        """Name, version, acceleration, for `docker info`. The key Driver is required."""
