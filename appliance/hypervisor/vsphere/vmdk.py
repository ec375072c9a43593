"""Virtual disks as files: a descriptor file and a flat file with the bytes (Virtual Disk Format 5.0, VMware)."""

_SECTOR = 512
_HEADS, _SECTORS = 255, 63


def flat_name(name: str) -> str:
    """The name of the flat file of a disk NAME.vmdk."""
    return f"{name.removesuffix('.vmdk')}-flat.vmdk"


def descriptor(name: str, size: int, content: int) -> bytes:
    """The descriptor file NAME.vmdk of a flat disk of `size` bytes. `content` is a number that changes with the bytes.

    ValueError when `size` is not a multiple of a sector.
    """
    if size % _SECTOR:
        raise ValueError(f"the size of a disk, {size} bytes, is not a whole number of sectors")
    sectors = size // _SECTOR
    lines = (
        "# Disk DescriptorFile",
        "version=1",
        'encoding="UTF-8"',
        f"CID={content & 0xFFFFFFFE:08x}",
        "parentCID=ffffffff",
        'createType="vmfs"',
        "",
        "# Extent description",
        f'RW {sectors} VMFS "{flat_name(name)}"',
        "",
        "# The Disk Data Base",
        "#DDB",
        "",
        'ddb.adapterType = "lsilogic"',
        f'ddb.geometry.cylinders = "{max(1, sectors // (_HEADS * _SECTORS))}"',
        f'ddb.geometry.heads = "{_HEADS}"',
        f'ddb.geometry.sectors = "{_SECTORS}"',
        'ddb.virtualHWVersion = "13"',
        "",
    )
    return "\n".join(lines).encode()
