"""The EROFS on-disk format (Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h): superblock, inodes, xattrs, directories.

Pure: structs to bytes. `erofs.py` decides what goes where.
"""

import stat
import struct
from dataclasses import dataclass, field

BLOCK = 4096
SLOT = 32
"""Inodes begin at multiples of this; an inode's number is its offset divided by it."""
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sI")
_SUPERBLOCK_OFFSET = 1024
_MAGIC = 0xE0F5E1E2
_INODE = struct.Struct("<HHHHQIIIIQII16x")
INODE_SIZE = _INODE.size
_PLAIN, _INLINE = 0, 2
FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_XATTR_PREFIXES = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)


@dataclass(slots=True)
class Node:
    """A file, directory, link or device. `block` is where its data begins; `tail` is data that may go behind the inode.

    `children` is None for all but directories. `number` is the inode's number, -1 until it has one.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    block: int = 0
    tail: bytes = b""
    device: int = 0
    children: "dict[bytes, Node] | None" = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    links: int = 1
    number: int = -1
    parent: "Node | None" = None


def superblock(root: int, inodes: int, blocks: int, first_meta_block: int) -> tuple[int, bytes]:
    """The superblock and its offset on the disk."""
    packed = _SUPERBLOCK.pack(
        _MAGIC,
        0,  # checksum: none
        0,  # compatible features
        BLOCK.bit_length() - 1,
        0,
        root,
        inodes,
        0,  # build time
        0,
        blocks,
        first_meta_block,
        0,  # shared xattrs: none
        bytes(16),  # UUID
        b"",  # volume name
        0,  # incompatible features
    )
    return _SUPERBLOCK_OFFSET, packed.ljust(128, b"\0")


def inode(node: Node, data: int, xattr_count: int, *, inline: bool) -> bytes:
    """An extended inode. `data` is the first block of its data, or a device's number."""
    return _INODE.pack(
        1 | (_INLINE if inline else _PLAIN) << 1,
        xattr_count,
        node.mode,
        0,
        node.size,
        data,
        node.number & 0xFFFFFFFF,
        node.uid,
        node.gid,
        (node.mtime_ns // 1_000_000_000) & 0xFFFFFFFFFFFFFFFF,
        node.mtime_ns % 1_000_000_000,
        node.links,
    )


def encode_xattrs(xattrs: dict[bytes, bytes]) -> tuple[bytes, int]:
    """The xattrs as they follow the inode, and i_xattr_icount. A name without a known prefix is left out."""
    body = bytearray()
    for key, value in sorted(xattrs.items()):
        for prefix, index in _XATTR_PREFIXES:
            if key.startswith(prefix):
                name = key[len(prefix) :]
                entry = struct.pack("<BBH", len(name), index, len(value)) + name + value
                body += entry + bytes(-len(entry) % 4)
                break
    if not body:
        return b"", 0
    return bytes(12) + bytes(body), len(body) // 4 + 1


def directory_size(names: list[bytes]) -> int:
    """Bytes of a directory with these sorted names."""
    used = full = 0
    for name in names:
        need = 12 + len(name)
        if used + need > BLOCK:
            full += 1
            used = 0
        used += need
    return full * BLOCK + used


def directory_blocks(entries: list[tuple[bytes, int, int]]) -> list[bytes]:
    """The blocks of a directory with these sorted entries (name, inode number, file type); the last block is not padded."""
    blocks: list[bytes] = []
    current: list[tuple[bytes, int, int]] = []
    used = 0

    def close() -> None:
        at = 12 * len(current)
        heads, names = [], []
        for name, number, kind in current:
            heads.append(struct.pack("<QHBB", number, at, kind, 0))
            names.append(name)
            at += len(name)
        blocks.append(b"".join(heads + names))

    for entry in entries:
        need = 12 + len(entry[0])
        if used + need > BLOCK:
            close()
            current, used = [], 0
        current.append(entry)
        used += need
    close()
    return blocks
