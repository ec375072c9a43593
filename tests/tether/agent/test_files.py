"""Disks are found in sysfs by their address, whatever the kernel calls them."""

from pathlib import Path

from protos.tether.v1.filesystem_pb2 import Disk
from tether.agent.files import block_name


def _sysfs(root: Path) -> Path:
    """Two virtio-blk disks as Linux shows them: vda at 00:05.0 with the serial number data, vdb at 00:06.0 with logs."""
    for name, pci, serial in (("vda", "0000:00:05.0", "data"), ("vdb", "0000:00:06.0", "logs")):
        (root / f"bus/pci/devices/{pci}/virtio3/block/{name}").mkdir(parents=True)
        (root / f"block/{name}").mkdir(parents=True)
        (root / f"block/{name}/serial").write_text(f"{serial}\n")
    return root


def test_a_virtio_disk_is_found_by_its_serial_number(tmp_path: Path) -> None:
    sys = _sysfs(tmp_path)
    assert block_name(Disk(serial="logs"), sys) == "vdb"
    assert block_name(Disk(serial="data", partition=2), sys) == "vda"
    assert block_name(Disk(serial="dat"), sys) is None


def test_a_virtio_disk_is_found_by_its_pci_address(tmp_path: Path) -> None:
    sys = _sysfs(tmp_path)
    assert block_name(Disk(pci="0000:00:06.0"), sys) == "vdb"
    assert block_name(Disk(pci="0000:00:07.0"), sys) is None
