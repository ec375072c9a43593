"""The descriptor keeps to the grammar of DSP0243 and DSP8023 (OVF 1.1), as far as it uses it: which elements, in which order."""

import hashlib
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.provision.properties import PROPERTIES
from build.ova.descriptor import Disk, descriptor
from build.ova.image import pack
from tests.live.certificates import self_signed

_OVF = "http://schemas.dmtf.org/ovf/envelope/1"
_RASD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
_VSSD = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
_VMW = "http://www.vmware.com/schema/ovf"
# Children in their order, by element: "?" once at most, "*" any number, "+" one or more, nothing exactly once. Words that are joined
# by "|" may come in any order.
_GRAMMAR = {
    "Envelope": ["References", "DiskSection|NetworkSection*", "VirtualSystem"],
    "References": ["File*"],
    "File": [],
    "DiskSection": ["Info", "Disk*"],
    "Disk": [],
    "NetworkSection": ["Info", "Network+"],
    "Network": ["Description?"],
    "VirtualSystem": ["Info", "Name?", "OperatingSystemSection|ProductSection|VirtualHardwareSection*"],
    "OperatingSystemSection": ["Info", "Description?"],
    "ProductSection": ["Info", "Product?", "Vendor?", "Version?", "FullVersion?", "Category|Property*"],
    "Property": ["Label?", "Description?", "Value*"],
    "VirtualHardwareSection": ["Info", "System?", "Item*", "Config*"],
}
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
_REQUIRED = {
    "File": {"id", "href"}, "Disk": {"diskId", "capacity", "format"}, "Network": {"name"}, "VirtualSystem": {"id"},
    "OperatingSystemSection": {"id"}, "Property": {"key", "type"},
}  # fmt: skip
# Of CIM's classes, whose elements are in the order of their names.
_ITEM = {
    "Address", "AddressOnParent", "AllocationUnits", "AutomaticAllocation", "Connection", "ElementName", "HostResource", "InstanceID",
    "Parent", "ResourceSubType", "ResourceType", "VirtualQuantity",
}  # fmt: skip


@pytest.fixture(scope="module")
def envelope() -> ElementTree.Element:
    disks = [Disk("system", "a.vmdk", 5, 1 << 20, 1 << 16), Disk("data", "b.vmdk", 6, 1 << 30, 0)]
    return ElementTree.fromstring(descriptor("vch-test", disks))


def _local(tag: str) -> str:
    return tag.partition("}")[2]


def _check_order(element: ElementTree.Element) -> None:
    left = [_local(child.tag) for child in element]
    for rule in _GRAMMAR[_local(element.tag)]:
        words, count = (rule[:-1], rule[-1]) if rule[-1] in "?*+" else (rule, "")
        found = 0
        while left and left[0] in words.split("|"):
            left.pop(0)
            found += 1
        assert {"?": found <= 1, "*": True, "+": found >= 1, "": found == 1}[count], f"{element.tag}: {words}"
    assert not left, f"{element.tag}: {left}"


def test_elements_are_where_they_may_be(envelope: ElementTree.Element) -> None:
    assert envelope.tag == f"{{{_OVF}}}Envelope"
    for element in envelope.iter():
        space, name = element.tag[1:].partition("}")[0], _local(element.tag)
        assert space in (_OVF, _RASD, _VSSD, _VMW)
        if name in _GRAMMAR and space == _OVF:
            _check_order(element)
        attributes = {_local(key) for key in element.attrib}
        assert attributes <= _ATTRIBUTES.get(name, set()), name
        assert attributes >= _REQUIRED.get(name, set()), name
        assert all(key.startswith((f"{{{_OVF}}}", f"{{{_VMW}}}")) for key in element.attrib)


def test_hardware_is_in_the_order_of_its_classes(envelope: ElementTree.Element) -> None:
    items = list(envelope.iter(f"{{{_OVF}}}Item"))
    instances = []
    for item in items:
        names = [_local(child.tag) for child in item]
        assert names == sorted(names)
        assert {"ElementName", "InstanceID", "ResourceType"} <= set(names) <= _ITEM
        assert all(child.tag.startswith(f"{{{_RASD}}}") for child in item)
        instances.append(item.findtext(f"{{{_RASD}}}InstanceID"))
    assert len(set(instances)) == len(instances)
    assert {item.findtext(f"{{{_RASD}}}Parent") for item in items} - {None} <= set(instances)
    (system,) = envelope.iter(f"{{{_OVF}}}System")
    names = [_local(child.tag) for child in system]
    assert names == sorted(names)
    assert {"ElementName", "InstanceID"} <= set(names)


def test_all_that_is_named_is_there(envelope: ElementTree.Element) -> None:
    def named(element: str, attribute: str) -> list[str]:
        return [one.get(f"{{{_OVF}}}{attribute}", "") for one in envelope.iter(f"{{{_OVF}}}{element}")]

    assert named("Disk", "fileRef") == named("File", "id")
    disks = [one.text for one in envelope.iter(f"{{{_RASD}}}HostResource")]
    assert disks == [f"ovf:/disk/{name}" for name in named("Disk", "diskId")]
    assert [one.text for one in envelope.iter(f"{{{_RASD}}}Connection")] == named("Network", "name")
    # A colon or a point parts the names of classes (9.5.1).
    assert named("Property", "key") == [one.key for one in PROPERTIES]
    assert not any(set(".:") & set(one.key) for one in PROPERTIES)
    passwords = [
        one.get(f"{{{_OVF}}}key") for one in envelope.iter(f"{{{_OVF}}}Property") if one.get(f"{{{_OVF}}}password")
    ]
    assert passwords == [one.key for one in PROPERTIES if one.secret]


def _members(ova: Path) -> dict[str, bytes]:
    with tarfile.open(ova) as archive:
        found = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            found[member.name] = file.read()
        return found


def test_the_package_is_whole_and_the_same_each_time(tmp_path: Path) -> None:
    system = tmp_path / "system"
    system.write_bytes(b"system".ljust(1 << 20, b"\0"))
    pack("vch", system, tmp_path, tmp_path / "one.ova")
    pack("vch", system, tmp_path, tmp_path / "two.ova")
    assert (tmp_path / "one.ova").read_bytes() == (tmp_path / "two.ova").read_bytes()
    members = _members(tmp_path / "one.ova")
    assert list(members) == ["vch.ovf", "vch.mf", "vch-system.vmdk", "vch-data.vmdk"]
    lines = members["vch.mf"].decode().splitlines()
    for name in ("vch.ovf", "vch-system.vmdk", "vch-data.vmdk"):
        assert f"SHA256({name})= {hashlib.sha256(members[name]).hexdigest()}" in lines


def test_a_signature_is_of_the_manifest(tmp_path: Path) -> None:
    system = tmp_path / "system"
    system.write_bytes(bytes(1 << 20))
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    pack("vch", system, tmp_path, tmp_path / "signed.ova", (key, certificate))
    members = _members(tmp_path / "signed.ova")
    assert list(members)[:3] == ["vch.ovf", "vch.mf", "vch.cert"]
    line, _, chain = members["vch.cert"].partition(b"\n")
    public = x509.load_pem_x509_certificate(chain).public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    made = bytes.fromhex(line.removeprefix(b"SHA256(vch.mf)= ").decode())
    public.verify(made, members["vch.mf"], padding.PKCS1v15(), hashes.SHA256())
