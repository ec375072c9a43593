"""The OVF descriptor: valid by the schema of OVF 1.1 (DSP0243), and complete in what it refers to."""

import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from appliance.config.table import PROPERTIES
from build.ova.descriptor import Disk, descriptor
from tests.build.ova.schema import faults

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_VMW = "http://www.vmware.com/schema/ovf"
# The schema accepts attributes of other namespaces, and so misspelt ones.
_ATTRIBUTES = {
    "File": {"id", "href", "size"},
    "Disk": {"diskId", "fileRef", "capacity", "populatedSize", "format"},
    "Network": {"name"},
    "VirtualSystem": {"id"},
    "OperatingSystemSection": {"id", "osType"},
    "Property": {"key", "type", "userConfigurable", "password", "value"},
    "VirtualHardwareSection": {"transport"},
    "Config": {"required", "key", "value"},
}
# The types of properties (DSP0243, table 6).
_TYPES = {"string", "boolean", "real32", "real64"} | {f"{sign}int{bits}" for sign in "us" for bits in (8, 16, 32, 64)}


@pytest.fixture(scope="module")
def written() -> bytes:
    disks = [Disk("system", "a.vmdk", 5, 1 << 20, 1 << 16), Disk("data", "b.vmdk", 6, 1 << 30, 0)]
    return descriptor("vch-test", disks)


@pytest.fixture(scope="module")
def envelope(written: bytes) -> ElementTree.Element:
    return ElementTree.fromstring(written)


def test_it_is_valid(written: bytes) -> None:
    assert faults(written) == []


@pytest.mark.skipif("VCH_OVF_SCHEMA" not in os.environ, reason="VCH_OVF_SCHEMA does not name a copy of DMTF's DSP8023")
def test_it_is_valid_by_the_schema_of_dmtf(written: bytes) -> None:
    assert faults(written, Path(os.environ["VCH_OVF_SCHEMA"])) == []


def test_elements_and_attributes_are_known(envelope: ElementTree.Element) -> None:
    for element in envelope.iter():
        space, _, name = element.tag[1:].partition("}")
        assert space in (_OVF, _RASD, _VSSD, _VMW)
        assert {key.partition("}")[2] for key in element.attrib} <= _ATTRIBUTES.get(name, set()), name
        assert all(key.startswith((f"{{{_OVF}}}", f"{{{_VMW}}}")) for key in element.attrib)


def test_references_resolve(envelope: ElementTree.Element) -> None:
    def named(element: str, attribute: str) -> list[str]:
        return [one.get(f"{{{_OVF}}}{attribute}", "") for one in envelope.iter(f"{{{_OVF}}}{element}")]

    assert named("Disk", "fileRef") == named("File", "id")
    disks = [one.text for one in envelope.iter(f"{{{_RASD}}}HostResource")]
    assert disks == [f"ovf:/disk/{name}" for name in named("Disk", "diskId")]
    assert [one.text for one in envelope.iter(f"{{{_RASD}}}Connection")] == named("Network", "name")
    assert {one.get(f"{{{_OVF}}}type") for one in envelope.iter(f"{{{_OVF}}}Property")} <= _TYPES
    instances = [one.findtext(f"{{{_RASD}}}InstanceID") for one in envelope.iter(f"{{{_OVF}}}Item")]
    assert len(set(instances)) == len(instances)
    assert {one.text for one in envelope.iter(f"{{{_RASD}}}Parent")} <= set(instances)
    # Keys must not contain a colon or a period (9.5.1).
    assert named("Property", "key") == [one.key for one in PROPERTIES]
    assert not any(set(".:") & set(one.key) for one in PROPERTIES)
    passwords = [
        one.get(f"{{{_OVF}}}key") for one in envelope.iter(f"{{{_OVF}}}Property") if one.get(f"{{{_OVF}}}password")
    ]
    assert passwords == [one.key for one in PROPERTIES if one.secret]
