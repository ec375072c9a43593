"""Our copy of the OVF schema accepts the descriptors that VMware ships, and refuses those that VMware's OVF tests call invalid."""

from pathlib import Path

import pytest

from build.ova.descriptor import Disk, descriptor
from tests.build.ova.schema import faults
from tests.live.gotools import govmomi

_OURS = descriptor("vch-test", [Disk("system", "a.vmdk", 5, 1 << 20, 1 << 16), Disk("data", "b.vmdk", 6, 1 << 30, 0)])


@pytest.fixture(scope="module")
def fixtures() -> Path:
    source = govmomi()
    if source is None:
        pytest.skip("needs Go")
    return source / "ovf/fixtures"


def test_appliances_of_vmware_are_valid(fixtures: Path) -> None:
    found = {file.name: faults(file.read_bytes()) for file in (fixtures / "vmware").glob("*.ovf")}
    # The schema allows a missing fileRef, but not an empty one.
    (fault,) = found.pop("Vcf-License-Server-9.1.0.0.25262073.ovf")
    assert "key-sequence ['']" in fault
    assert len(found) == 6
    assert not any(found.values()), found


@pytest.mark.parametrize(
    ("case", "fault"),
    [
        ("DiskSection_1_0/Neg/dup_diskid", "Disk': Duplicate key-sequence"),
        ("DiskSection_1_0/Neg/no_capacity", "capacity' is required"),
        ("DiskSection_1_0/Neg/no_diskid", "diskId' is required"),
        ("Envelope_1_0/Neg/content_withnovm", "UnKnown': This element is not expected"),
        ("Envelope_1_0/Neg/invalid_empty_env", "Envelope': Missing child element"),
        ("Envelope_1_0/Neg/invalid_namespace", "No matching global declaration"),
        ("Envelope_1_0/Neg/invalid_neg_chunk", "'abcd' is not a valid value"),
        ("Envelope_1_0/Neg/invalid_no_ref", "DiskSection': This element is not expected"),
        ("Envelope_1_0/Neg/invalid_ref_dup_id", "File': Duplicate key-sequence"),
        ("Envelope_1_0/Neg/invalid_ref_id", "}id' is required"),
        ("Envelope_1_0/Neg/invalid_ref_no_href", "href' is required"),
        ("Envelope_1_0/Neg/invalid_version", "envelope/2}References': This element is not expected"),
        ("Envelope_1_0/Neg/no_content", "Envelope': Missing child element"),
        ("Envelope_1_0/Neg/section_withnoinfo", "Missing child element(s). Expected is"),
    ],
)
def test_invalid_descriptors_of_vmware_are_refused(fixtures: Path, case: str, fault: str) -> None:
    found = faults((fixtures / f"external/OVFToolTemplates/OVF/xmltestfiles/{case}.ovf").read_bytes())
    assert any(fault in one for one in found), found


@pytest.mark.parametrize(
    ("right", "wrong", "fault"),
    [
        ('<Network ovf:name="Bridge">', "<Network>", "name' is required"),
        ("<rasd:Connection>Bridge<", "<rasd:Connection>Elsewhere<", "'Elsewhere'] of keyref"),
        ('ovf:fileRef="data-file"', 'ovf:fileRef="gone"', "'gone'] of keyref"),
        ('ovf:capacity="1048576"', 'ovf:capacity="1 MB"', "capacity"),
        ('ovf:size="5"', 'ovf:size="-5"', "size"),
        ('ovf:userConfigurable="true"', 'ovf:userConfigurable="yes"', "userConfigurable"),
        ('ovf:key="', 'key="', "key' is required"),
        ("<Product>vch</Product>", "<Name>vch</Name>", "Name': This element is not expected"),
        ("<Info>Debian</Info>", "", "Expected is"),
        ('<OperatingSystemSection ovf:id="96"', '<OperatingSystemSection ovf:id="Debian"', "OperatingSystemSection"),
        ("<rasd:ResourceType>3</rasd:ResourceType>", "", "Expected is"),
        ("<rasd:ResourceType>3<", "<rasd:ResourceType>CPU<", "ResourceType"),
        ("<rasd:InstanceID>1</rasd:InstanceID>", "", "ResourceType': This element is not expected"),
        ("<rasd:VirtualQuantity>2<", "<rasd:VirtualQuantity>two<", "VirtualQuantity"),
        (
            "<vssd:ElementName>Virtual Hardware Family</vssd:ElementName>",
            "",
            "InstanceID': This element is not expected",
        ),
        ('vmw:value="efi"', "", "value' is required"),
        (
            "</VirtualSystem>",
            "</VirtualSystem><VirtualSystem ovf:id='b'><Info/></VirtualSystem>",
            "VirtualSystem': This element",
        ),
    ],
)
def test_a_single_fault_is_found(right: str, wrong: str, fault: str) -> None:
    assert right.encode() in _OURS
    found = faults(_OURS.replace(right.encode(), wrong.encode()))
    assert any(fault in one for one in found), found
