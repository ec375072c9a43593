"""Descriptors of virtual disks."""

import pytest

from appliance.hypervisor.vsphere.vmdk import descriptor, flat_name


def test_a_descriptor_names_its_flat_file_and_sectors() -> None:
    text = descriptor("layer.vmdk", 1 << 20, 0x12345679).decode()
    assert text.startswith("# Disk DescriptorFile\n")
    assert 'RW 2048 VMFS "layer-flat.vmdk"' in text
    # The last bit is clear: a CID of all ones means that there is no parent.
    assert "CID=12345678\nparentCID=ffffffff" in text
    assert flat_name("layer.vmdk") == "layer-flat.vmdk"


def test_a_disk_has_whole_sectors() -> None:
    with pytest.raises(ValueError, match="not a whole number of sectors"):
        descriptor("layer.vmdk", 513, 1)
