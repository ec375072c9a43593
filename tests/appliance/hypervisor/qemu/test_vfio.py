"""PCI devices for VFIO, on a made-up tree of sysfs and /dev: no such device is needed."""

import os
import resource
from pathlib import Path

import pytest

from appliance.errors import HypervisorError
from appliance.hypervisor import MachineSpec
from appliance.hypervisor.qemu.vfio import PciDevices, locked_memory

GPU, SOUND, DISK, BRIDGE = "0000:01:00.0", "0000:01:00.1", "0000:02:00.0", "0000:00:01.0"


def make_device(root: Path, address: str, group: str, driver: str = "vfio-pci", kind: str = "0x030000") -> None:
    """Add a PCI device to the tree: sysfs's links, and the device node of its IOMMU group as a plain file."""
    device = root / "sys/bus/pci/devices" / address
    device.mkdir(parents=True)
    (device / "class").write_text(f"{kind}\n")
    if driver:
        bound = root / "sys/bus/pci/drivers" / driver
        bound.mkdir(parents=True, exist_ok=True)
        (bound / address).symlink_to(device)
        (device / "driver").symlink_to(bound)
    if group:
        members = root / "sys/kernel/iommu_groups" / group / "devices"
        members.mkdir(parents=True, exist_ok=True)
        (members / address).symlink_to(device)
        (device / "iommu_group").symlink_to(members.parent)
        node = root / "dev/vfio" / group
        node.parent.mkdir(parents=True, exist_ok=True)
        node.touch()


def _spec(name: str, *addresses: str) -> MachineSpec:
    return MachineSpec(name * 12, 256, 1, name=name, pci_devices=addresses)


def test_a_device_is_ready_when_its_whole_group_is_bound(tmp_path: Path) -> None:
    make_device(tmp_path, GPU, "12")
    make_device(tmp_path, BRIDGE, "12", "pcieport", "0x060400")
    make_device(tmp_path, SOUND, "12", "")
    make_device(tmp_path, DISK, "13", "nvme")
    devices = PciDevices(tmp_path)
    assert devices.ready() == [GPU]
    assert devices.why_not(GPU) == ""
    assert devices.offered().endswith(f"bound to vfio-pci, with --device vfio/pci=ADDRESS; there are {GPU}")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("0000:09:00.0", "PCI device 0000:09:00.0 does not exist on this host"),
        (DISK, f"PCI device {DISK} has the driver nvme of this host: bind the device to vfio-pci first"),
        (SOUND, f"PCI device {SOUND} has no driver: bind the device to vfio-pci first"),
        (
            GPU,
            f"PCI device {GPU} is in IOMMU group 12 with the device 0000:01:00.2, which has the driver xhci_hcd of this host: "
            "bind all devices of the group to vfio-pci first",
        ),
        (
            "0000:03:00.0",
            "PCI device 0000:03:00.0 is in no IOMMU group: switch the IOMMU of this host on (kernel parameter "
            "intel_iommu=on or amd_iommu=on)",
        ),
        ("0000:04:00.0", "PCI device 0000:04:00.0: vchd cannot open /dev/vfio/14"),
    ],
)
def test_a_device_that_is_not_ready_says_why(tmp_path: Path, address: str, reason: str) -> None:
    make_device(tmp_path, GPU, "12")
    make_device(tmp_path, "0000:01:00.2", "12", "xhci_hcd")
    make_device(tmp_path, SOUND, "11", "")
    make_device(tmp_path, DISK, "13", "nvme")
    make_device(tmp_path, "0000:03:00.0", "")
    make_device(tmp_path, "0000:04:00.0", "14")
    (tmp_path / "dev/vfio/14").unlink()
    devices = PciDevices(tmp_path)
    assert devices.why_not(address) == reason
    assert address not in devices.ready()
    with pytest.raises(HypervisorError) as caught:
        devices.check(_spec("a", address), [])
    assert str(caught.value) == reason


def test_a_host_without_such_devices_offers_none(tmp_path: Path) -> None:
    assert PciDevices(tmp_path).offered().endswith("; there are none now")


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    for number in range(18):
        make_device(tmp_path, f"0000:{number:02x}:00.0", str(number))
    assert PciDevices(tmp_path).offered().endswith("0000:0f:00.0, ...")


def test_a_group_belongs_to_one_machine(tmp_path: Path) -> None:
    make_device(tmp_path, GPU, "12")
    make_device(tmp_path, SOUND, "12")
    make_device(tmp_path, DISK, "13")
    devices = PciDevices(tmp_path)
    holder = _spec("web", GPU)
    devices.check(_spec("b", DISK), [holder])
    devices.check(holder, [holder])
    with pytest.raises(HypervisorError, match=f"^PCI device {GPU} is in use by the machine of web$"):
        devices.check(_spec("b", GPU), [holder])
    with pytest.raises(
        HypervisorError, match=f"{SOUND} is in use by the machine of web, with the device {GPU} of the same"
    ):
        devices.check(_spec("b", DISK, SOUND), [holder])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_qemus_user_gets_the_device_node_and_loses_it(tmp_path: Path) -> None:
    make_device(tmp_path, GPU, "12")
    devices = PciDevices(tmp_path)
    devices.grant([GPU], 4711)
    assert (tmp_path / "dev/vfio/12").stat().st_uid == 4711
    devices.grant([GPU], 0)
    assert (tmp_path / "dev/vfio/12").stat().st_uid == 0
    (tmp_path / "dev/vfio/12").unlink()
    with pytest.raises(HypervisorError, match="/dev/vfio/12 cannot be given to QEMU"):
        devices.grant([GPU], 4711)


def test_the_memory_of_a_machine_with_a_device_can_be_locked(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(8 << 20, 8 << 20)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, wanted: limits.append(wanted))
    with locked_memory(_spec("a")):
        assert len(limits) == 1
    with locked_memory(_spec("a", GPU)):
        needed = (256 << 20) + (1 << 30)
        assert limits[-1] == (needed, needed)
    assert limits[-1] == limits[0]
    limits.append((8 << 20, resource.RLIM_INFINITY))
    with locked_memory(_spec("a", GPU)):
        assert limits[-1] == (needed, resource.RLIM_INFINITY)


def test_a_limit_that_cannot_be_raised_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: int, wanted: tuple[int, int]) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (8 << 20, 8 << 20))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with (
        pytest.raises(HypervisorError, match=r"needs 1280 MiB of locked memory, and the limit of vchd is 8 MiB$"),
        locked_memory(_spec("a", GPU)),
    ):
        pass
