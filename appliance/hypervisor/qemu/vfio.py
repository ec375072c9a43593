"""PCI devices of this host that VFIO passes to QEMU: what sysfs says about them, and the rights of QEMU's user on their device nodes.

VFIO knows IOMMU groups. The devices of a group can reach each other's memory, so the kernel opens a group only when no other driver of the
host uses one of its devices, and gives a group to one process at a time (Documentation/driver-api/vfio.rst).
"""

import contextlib
import os
import resource
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import MachineSpec

_DRIVER = "vfio-pci"
# Devices of a group may also have this driver, which does nothing, or no driver.
_HARMLESS_DRIVERS = ("", _DRIVER, "pci-stub")
# The class code of a PCI bridge. A bridge keeps its driver: the kernel ignores it in a group (vfio_dev_driver_allowed).
_BRIDGE = "0x0604"
# QEMU locks the whole memory of the guest, and maps as much again of the devices. libvirt reserves the same.
_LOCKED_EXTRA = 1 << 30
_MOST_LISTED = 16


@dataclass(frozen=True, slots=True)
class PciDevices:
    """`root` is the root of the file system that holds /sys and /dev."""

    root: Path = Path("/")

    def ready(self) -> list[str]:
        """The addresses of the devices that a machine can have."""
        bound = self.root / "sys/bus/pci/drivers" / _DRIVER
        found = sorted(entry.name for entry in bound.iterdir() if ":" in entry.name) if bound.is_dir() else []
        return [address for address in found if not self.why_not(address)]

    def offered(self) -> str:
        """`ready` as a text for a client."""
        ready = self.ready()
        shown = ", ".join(ready[:_MOST_LISTED]) + (", ..." if len(ready) > _MOST_LISTED else "")
        return (
            f"QEMU gives containers PCI devices of this host that are bound to {_DRIVER}, with --device vfio/pci=ADDRESS; "
            + (f"there are {shown}" if ready else "there are none now")
        )

    def why_not(self, address: str) -> str:
        """Why a machine cannot have a device of this host; "" when it can."""
        device = self._device(address)
        if not device.is_dir():
            return f"PCI device {address} does not exist on this host"
        group = self.group(address)
        if not group:
            return (
                f"PCI device {address} is in no IOMMU group: switch the IOMMU of this host on (kernel parameter "
                "intel_iommu=on or amd_iommu=on)"
            )
        for member in sorted(os.listdir(device / "iommu_group/devices")):
            driver = _link_name(self._device(member) / "driver")
            if member == address and driver != _DRIVER:
                return f"PCI device {address} {_used_by(driver)}: bind the device to {_DRIVER} first"
            if driver not in _HARMLESS_DRIVERS and not self._is_bridge(member):
                return (
                    f"PCI device {address} is in IOMMU group {group} with the device {member}, which {_used_by(driver)}: "
                    f"bind all devices of the group to {_DRIVER} first"
                )
        if not os.access(self._node(group), os.R_OK | os.W_OK):
            return f"PCI device {address}: vchd cannot open /dev/vfio/{group}"
        return ""

    def group(self, address: str) -> str:
        """The number of the IOMMU group of a device; "" when the device has none."""
        return _link_name(self._device(address) / "iommu_group")

    def check(self, spec: MachineSpec, others: Collection[MachineSpec]) -> None:
        """HypervisorError when a machine of `spec` cannot have its devices. `others` are the machines that exist."""
        for address in spec.pci_devices:
            if why := self.why_not(address):
                raise HypervisorError(why)
            for other in others:
                for held in other.pci_devices if other.id != spec.id else ():
                    if self.group(held) == self.group(address):
                        beside = "" if held == address else f", with the device {held} of the same IOMMU group"
                        name = other.name or other.id[:12]
                        raise HypervisorError(f"PCI device {address} is in use by the machine of {name}{beside}")

    def grant(self, addresses: Collection[str], owner: int) -> None:
        """Let a user open the device nodes of the devices' groups: QEMU opens them by their path. `owner` 0 takes the right back.

        HypervisorError when the host refuses. A daemon without root's rights runs QEMU as its own user, and changes nothing.
        """
        if os.geteuid():
            return
        for group in {self.group(address) for address in addresses} - {""}:
            try:
                os.chown(self._node(group), owner, owner)
            except OSError as error:
                raise HypervisorError(f"/dev/vfio/{group} cannot be given to QEMU: {error}") from error

    def _device(self, address: str) -> Path:
        return self.root / "sys/bus/pci/devices" / address

    def _node(self, group: str) -> Path:
        return self.root / "dev/vfio" / group

    def _is_bridge(self, address: str) -> bool:
        return (self._device(address) / "class").read_text().startswith(_BRIDGE)


def _link_name(link: Path) -> str:
    """The last part of what a symbolic link of sysfs points to; "" when there is no link."""
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""


def _used_by(driver: str) -> str:
    return f"has the driver {driver} of this host" if driver else "has no driver"


@contextlib.contextmanager
def locked_memory(spec: MachineSpec) -> Iterator[None]:
    """A process that starts in this block may lock the memory of its machine, which VFIO needs for a PCI device.

    HypervisorError when the limit of this process is lower, and the process may not raise it.
    """
    if not spec.pci_devices:
        yield
        return
    before = soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    needed = (spec.memory_mib << 20) + _LOCKED_EXTRA
    unlimited = resource.RLIM_INFINITY
    wanted = (
        unlimited if soft == unlimited else max(soft, needed),
        unlimited if hard == unlimited else max(hard, needed),
    )
    try:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
    except (ValueError, OSError) as error:
        raise HypervisorError(
            f"a machine with a PCI device needs {needed >> 20} MiB of locked memory, and the limit of vchd is {hard >> 20} MiB"
        ) from error
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)
