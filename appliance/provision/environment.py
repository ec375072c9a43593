"""The OVF environment: the property values that a hypervisor gives to a VM (DSP0243, 9.4)."""

import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from appliance.errors import InvalidParameter

_NAMESPACE = "http://schemas.dmtf.org/ovf/environment/1"
_VMWARE = "http://www.vmware.com/schema/ovfenv"
# Bytes of the largest environment that is accepted.
_MOST = 1 << 20
_FIRMWARE = Path("/sys/firmware/qemu_fw_cfg/by_name/opt/vch/ovf-env/raw")
_CD = Path("/dev/sr0")


@dataclass(frozen=True, slots=True)
class Environment:
    """Values by property key, and the MAC addresses of the NICs by unit number. Only vCenter lists NICs."""

    values: Mapping[str, str]
    nics: tuple[str, ...]


def parse(text: bytes) -> Environment:
    """The environment in an XML document. InvalidParameter when the document is not an OVF environment."""
    if len(text) > _MOST:
        raise InvalidParameter(f"OVF environment: {len(text)} bytes are more than {_MOST}")
    try:
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise InvalidParameter(f"OVF environment: {error}") from error
    if root.tag != f"{{{_NAMESPACE}}}Environment":
        raise InvalidParameter(f"OVF environment: the root element is {root.tag}")
    values = {}
    for found in root.findall(f"{{{_NAMESPACE}}}PropertySection/{{{_NAMESPACE}}}Property"):
        key, value = found.get(f"{{{_NAMESPACE}}}key"), found.get(f"{{{_NAMESPACE}}}value")
        if key is not None and value is not None:
            values[key] = value
    nics = sorted(
        (int(unit), mac.lower())
        for found in root.iter(f"{{{_VMWARE}}}Adapter")
        if (unit := found.get(f"{{{_VMWARE}}}unitNumber", "")).isdecimal()
        if (mac := found.get(f"{{{_VMWARE}}}mac"))
    )
    return Environment(values, tuple(mac for _, mac in nics))


def encode(values: Mapping[str, str]) -> bytes:
    """An XML document with these values, for ESXi hosts without a vCenter, which make no environment themselves."""
    ElementTree.register_namespace("oe", _NAMESPACE)
    root = ElementTree.Element(f"{{{_NAMESPACE}}}Environment", {f"{{{_NAMESPACE}}}id": "vch"})
    section = ElementTree.SubElement(root, f"{{{_NAMESPACE}}}PropertySection")
    for key, value in values.items():
        attributes = {f"{{{_NAMESPACE}}}key": key, f"{{{_NAMESPACE}}}value": value}
        ElementTree.SubElement(section, f"{{{_NAMESPACE}}}Property", attributes)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def found() -> Environment:
    """The environment of this VM: from VMware Tools, QEMU's firmware configuration, or a CD. InvalidParameter when there is none."""
    for text in _sources():
        if text.strip():
            return parse(text)
    raise InvalidParameter("OVF environment: none found; was this appliance deployed from its OVA?")


def _sources() -> Iterator[bytes]:
    # vmtoolsd fails when the hypervisor is not VMware's.
    command = ["vmtoolsd", "--cmd", "info-get guestinfo.ovfEnv"]
    try:
        yield subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired):
        pass
    subprocess.run(["modprobe", "-q", "qemu_fw_cfg"], check=False)
    if _FIRMWARE.exists():
        yield _FIRMWARE.read_bytes()
    subprocess.run(["modprobe", "-q", "-a", "sr_mod", "isofs"], check=False)
    subprocess.run(["udevadm", "settle", "--timeout=10"], check=False)
    if _CD.exists():
        with tempfile.TemporaryDirectory() as folder:
            mounted = subprocess.run(["mount", "-o", "ro,nosuid,nodev,noexec", str(_CD), folder], check=False)
            if mounted.returncode == 0:
                try:
                    file = Path(folder, "ovf-env.xml")
                    if file.exists():
                        with file.open("rb") as content:
                            yield content.read(_MOST + 1)
                finally:
                    subprocess.run(["umount", folder], check=False)
