"""The OVF descriptor of the appliance (DSP0243 1.1.0, with VMware's extensions in the namespace vmw)."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from appliance import __version__
from appliance.config.rows import Property
from appliance.config.table import PROPERTIES

DATA_BYTES = 40 << 30
_CPUS, _MEMORY = 2, 2048
_FORMAT = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
# The networks of the NICs, in the order of the default of the property `interfaces`.
NETWORKS = (
    ("Public", "Published ports, the API, vSphere, and the default route."),
    ("Bridge", "Containers: a portgroup that only this appliance uses."),
)


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk of the OVA. `size` is the length of its file, `populated` the data in it, `capacity` the disk's size; all in bytes."""

    id: str
    name: str
    size: int
    capacity: int
    populated: int


def descriptor(name: str, disks: Sequence[Disk], version: str = __version__) -> bytes:
    """The OVF envelope of an appliance with these disks: "system" and "data"."""
    files = "\n".join(
        f'    <File ovf:id="{disk.id}-file" ovf:href={quoteattr(disk.name)} ovf:size="{disk.size}"/>' for disk in disks
    )
    described = "\n".join(
        f'    <Disk ovf:diskId="{disk.id}" ovf:fileRef="{disk.id}-file" ovf:capacity="{disk.capacity}" '
        f'ovf:populatedSize="{disk.populated}" ovf:format={quoteattr(_FORMAT)}/>'
        for disk in disks
    )
    networks = "\n".join(
        f"    <Network ovf:name={quoteattr(title)}><Description>{escape(text)}</Description></Network>"
        for title, text in NETWORKS
    )
    categories = dict.fromkeys(found.category for found in PROPERTIES)
    properties = "\n".join(
        "\n".join(
            [
                f"        <Category>{escape(category)}</Category>",
                *(_property(found) for found in PROPERTIES if found.category == category),
            ]
        )
        for category in categories
    )
    items = "\n".join(_items())
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"
    xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
    xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
    xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
    xmlns:vmw="http://www.vmware.com/schema/ovf">
  <References>
{files}
  </References>
  <DiskSection>
    <Info>The system disk, which upgrades replace, and the data disk</Info>
{described}
  </DiskSection>
  <NetworkSection>
    <Info>Networks</Info>
{networks}
  </NetworkSection>
  <VirtualSystem ovf:id={quoteattr(name)}>
    <Info>A virtual container host</Info>
    <Name>{escape(name)}</Name>
    <OperatingSystemSection ovf:id="96" vmw:osType="debian11_64Guest">
      <Info>Debian</Info>
      <Description>Debian GNU/Linux 12 (64-bit)</Description>
    </OperatingSystemSection>
    <ProductSection>
      <Info>vch: the Docker API, with one virtual machine per container</Info>
      <Product>vch</Product>
      <Version>{version}</Version>
{properties}
    </ProductSection>
    <VirtualHardwareSection ovf:transport="com.vmware.guestInfo iso">
      <Info>Hardware</Info>
      <System>
        <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{escape(name)}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType>
      </System>
{items}
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
      <vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="false"/>
      <vmw:Config ovf:required="false" vmw:key="powerOpInfo.powerOffType" vmw:value="soft"/>
      <vmw:Config ovf:required="false" vmw:key="tools.syncTimeWithHost" vmw:value="false"/>
    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
""".encode()


def _property(found: Property) -> str:
    secret = ' ovf:password="true"' if found.secret else ""
    default = f" ovf:value={quoteattr(found.default)}" if found.default else ""
    head = f'        <Property ovf:key={quoteattr(found.key)} ovf:type="{found.type}" ovf:userConfigurable="true"{secret}{default}>'
    text = f"<Description>{escape(found.description)}</Description>" if found.description else ""
    return f"{head}<Label>{escape(found.label)}</Label>{text}</Property>"


def _items() -> list[str]:
    """The virtual hardware. The schema requires the elements of an item in alphabetical order."""
    items = [
        _item(1, 3, ElementName="Processors", AllocationUnits="hertz * 10^6", VirtualQuantity=_CPUS),
        _item(2, 4, ElementName="Memory", AllocationUnits="byte * 2^20", VirtualQuantity=_MEMORY),
        _item(3, 6, ElementName="SCSI controller", Address=0, ResourceSubType="VirtualSCSI"),
        _item(4, 5, ElementName="IDE controller", Address=0),
        _item(5, 17, ElementName="System disk", AddressOnParent=0, HostResource="ovf:/disk/system", Parent=3),
        _item(6, 17, ElementName="Data disk", AddressOnParent=1, HostResource="ovf:/disk/data", Parent=3),
        _item(
            7,
            15,
            ElementName="CD",
            AddressOnParent=0,
            AutomaticAllocation="false",
            Parent=4,
            ResourceSubType="vmware.cdrom.remotepassthrough",
        ),
    ]
    for index, (network, _) in enumerate(NETWORKS):
        items.append(
            _item(
                8 + index,
                10,
                ElementName=f"{network} network",
                AddressOnParent=7 + index,
                AutomaticAllocation="true",
                Connection=network,
                ResourceSubType="VmxNet3",
            )
        )
    return items


def _item(instance: int, kind: int, **elements: object) -> str:
    elements |= {"InstanceID": instance, "ResourceType": kind}
    body = "".join(f"<rasd:{name}>{escape(str(elements[name]))}</rasd:{name}>" for name in sorted(elements))
    return f"      <Item>{body}</Item>"
