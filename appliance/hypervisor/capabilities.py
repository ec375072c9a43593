"""What only some hypervisors can do: Protocols beyond the contract of `driver`, which the rooms above ask for with `isinstance`."""

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import trio

from appliance.hypervisor.driver import Disk, Driver, Forward, GuestDisk, Machine, MachineSpec, Nic, Share
from tether.transport import Line


@runtime_checkable
class SharesFolders(Protocol):
    """A driver whose machines can have shares, because the machines run on the host of the daemon."""

    def why_no_shares(self) -> str:
        """Why this host cannot share folders now, such as a missing program; "" when it can."""


def why_no_shares(driver: Driver) -> str:
    """Why machines of a driver cannot have shares; "" when they can."""
    if isinstance(driver, SharesFolders):
        return driver.why_no_shares()
    return "this hypervisor runs machines on other hosts than the daemon's"


@runtime_checkable
class TakesPciDevices(Protocol):
    """A driver whose machines can have PCI devices of their host (`MachineSpec.pci_devices`), each device in one machine at a time.

    `Driver.create` raises HypervisorError for a device that does not exist, that the host uses, or that another machine has. A machine
    with such a device is never made from a template, and its state cannot be saved.
    """

    def ready_pci_devices(self) -> list[str]:
        """The addresses of the devices that a machine can have, unless another machine has them. Blocks: reads the host's files."""

    def offered_pci_devices(self) -> str:
        """Which devices machines can have, and how a client names them, for an error text. Blocks: reads the host's files."""


def takes_pci_devices(driver: Driver) -> bool:
    """Whether machines of a driver can have PCI devices of their host."""
    return isinstance(driver, TakesPciDevices)


def offered_devices(driver: Driver) -> str:
    """What machines of a driver can have of their host's devices, for an error text. Blocks: reads the host's files."""
    if isinstance(driver, TakesPciDevices):
        return driver.offered_pci_devices()
    return "this hypervisor gives no devices of its hosts to containers"


@runtime_checkable
class Checkpointable(Protocol):
    """A machine whose state can be saved: memory, devices and the content of writable disks, at one moment."""

    async def save_to(self, folder: Path, at_rest: Callable[[], None], *, go_on: bool) -> None:
        """Save the state in `folder`, which is empty. The machine is paused meanwhile; then it runs again, or is killed.

        The driver calls `at_rest` when the machine is paused. HypervisorError or OSError when the state cannot be saved: the
        machine runs again, and the content of the folder is useless.
        """

    async def start_from(self, folder: Path) -> None:
        """Power on into a saved state, instead of `start`. The writable disks get their saved content.

        HypervisorError when the state is damaged, was written by another user, or does not fit this machine. The disks are
        unchanged then.
        """


@runtime_checkable
class Restorable(Protocol):
    """A machine that `start` may restore from a template. Its guest may be silent; then the machine can boot instead."""

    @property
    def restored(self) -> bool:
        """Whether the last start restored the machine."""

    async def boot(self) -> None:
        """Power on without a template; a machine that is on is powered off first. HypervisorError as for `Machine.start`.

        After a restore the driver notes that the template gave a machine whose guest did not answer.
        """


@runtime_checkable
class Pluggable(Protocol):
    """A machine whose NICs can change while it runs. `spec.more_nics` follows each change."""

    async def plug_nic(self, nic: Nic) -> None:
        """Add a NIC; the guest sees the NIC some moments later. HypervisorError when no slot is free."""

    async def unplug_nic(self, mac: str) -> None:
        """Remove a NIC. Returns when the guest has released the NIC; HypervisorError when the guest does not."""

    async def set_forwards(self, mac: str, forwards: tuple[Forward, ...]) -> None:
        """Replace the forwards of a NIC without a bridge. HypervisorError names a forward that is not possible."""


@runtime_checkable
class TakesDisks(Protocol):
    """A machine that takes further disks while it runs, and releases disks that its guest has unmounted.

    `spec.more_disks` follows each change, and so does `spec.disks`: a released disk has the path `RELEASED`.
    """

    async def plug_disks(self, disks: Sequence[Disk]) -> list[GuestDisk]:
        """Add disks, and return where the guest finds each; the guest sees them some moments later.

        HypervisorError when there are not enough places, or the hypervisor refuses a disk: none of the disks is added then.
        """

    async def release_disks(self, paths: Collection[Path]) -> None:
        """Take disks of `spec.disks` and `spec.more_disks` from the machine, so that another machine can have their files.

        The guest has unmounted the disks. Idempotent: a disk that the machine does not have is ignored.
        """

    def free_disks(self) -> int:
        """The number of disks that can be added."""

    def plugged_disks(self) -> dict[Path, GuestDisk]:
        """Where the guest finds each disk of `spec.more_disks`."""


@runtime_checkable
class TakesShares(Protocol):
    """A machine that takes further shares while it runs. They stay until the machine ends. `spec.more_shares` follows."""

    def why_no_more_shares(self) -> str:
        """Why shares cannot be added to this machine; "" when they can."""

    async def plug_shares(self, shares: tuple[Share, ...]) -> str:
        """Add a virtiofs file system that holds these shares, by their index; return its tag.

        HypervisorError when a share cannot be opened, or as `why_no_more_shares` says. Nothing is added then.
        """


@dataclass(frozen=True, slots=True)
class PlacementState:
    """What an operator can change in the hypervisor's own client: the machine's name, its host (a key), suspended or not."""

    name: str = ""
    host: str = ""
    suspended: bool = False


@runtime_checkable
class Suspendable(Protocol):
    """A machine that can be suspended, with its memory on disk. A suspended machine has the power state ON."""

    @property
    def placement(self) -> PlacementState:
        """The state that the hypervisor last reported. A field that is not known yet is empty."""

    async def wait_changed(self, than: PlacementState) -> PlacementState:
        """Wait until the state differs from `than`, and return the new state."""

    async def host_name(self, host: str) -> str:
        """The name of a host by its key; "" when the hypervisor does not know the host."""

    async def suspend(self) -> None:
        """Suspend the machine. HypervisorError when the hypervisor refuses."""

    async def resume(self) -> None:
        """Let a suspended machine run again from where it stopped. No effect on a machine that runs."""


@dataclass(frozen=True, slots=True)
class ResourceShares:
    """What a machine gets while its host is overcommitted: CPU shares (1024 is normal, 0 is the default), reserved memory in MiB."""

    cpu_shares: int = 0
    memory_mib: int = 0


@runtime_checkable
class SetShares(Protocol):
    """A machine whose resource shares can be set, running or not."""

    async def set_shares(self, shares: ResourceShares) -> None:
        """Set the shares. HypervisorError when the host cannot reserve the memory."""


@runtime_checkable
class Adaptable(Protocol):
    """A running machine that belongs to no container yet."""

    def in_background(self, background: bool) -> None:
        """Whether other processes of the host take precedence over the machine."""

    async def become(self, spec: MachineSpec) -> None:
        """Turn into the machine of `spec`, which has the same size and kind of network, with the disks of `spec`.

        The machine runs on. HypervisorError when that fails: the machine is then only good for `destroy`.
        """


class Rehearsal(Protocol):
    """Brings a booted guest to the state from which any container starts."""

    @property
    def layer(self) -> Path:
        """The image file of the read-only disk that the rehearsal uses."""

    def perform(self, line: Line, kind: MachineSpec, disks: list[GuestDisk]) -> AbstractAsyncContextManager[trio.Event]:
        """Rehearse on a machine of `kind` with two disks: a writable disk, and the disk of `layer`.

        Inside the block the guest is blank and idle and its line is open. The event is set when the line ends. The end of the
        block closes the line.
        """


@runtime_checkable
class Cloning(Protocol):
    """Creates running machines from a machine that booted before."""

    def want(self, kind: MachineSpec) -> None:
        """Prepare a template of this kind, because machines of this kind will be started."""

    async def create_blank(self, kind: MachineSpec) -> Machine | None:
        """Create a running `Adaptable` machine of this kind; None while there is no template."""
