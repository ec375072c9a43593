"""Writes a tar stream as an EROFS disk in one pass.

The disk is not compressed and has 4 KiB blocks. File data is written as it arrives, from block 1 on. Inodes, xattrs and directories
follow; the superblock is written last. Whiteouts become those of overlayfs: `.wh.NAME` a character device 0:0, `.wh..wh..opq` the xattr
trusted.overlay.opaque. The root inode comes first, because the superblock has 16 bits for its number.
"""

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from appliance.errors import ProtocolError
from appliance.image import erofs_format, tarstream
from appliance.image.erofs_format import (
    BLOCK,
    FILE_TYPES,
    INODE_SIZE,
    SLOT,
    Node,
    directory_blocks,
    directory_size,
    encode_xattrs,
)
from appliance.image.tree import Tree

_COPY = 1 << 20
_MAX_ENTRIES = 2_000_000
_MAX_DISK = 1 << 40  # a sparse file may claim more than any disk has; a block's number has 32 bits
_MAX_XATTRS = 128 << 10  # of a file, in bytes; an inode has 16 bits for their length in units of 4
_MAX_TAILS = 128 << 20  # bytes of short tails, which stay in memory until the inodes are written


@dataclass(frozen=True, slots=True)
class Limits:
    """`content`: bytes of regular files that the storage quota has room for. `written`: bytes that the file system has room for."""

    content: int = _MAX_DISK
    written: int = _MAX_DISK


NO_LIMITS = Limits()


class QuotaExceeded(Exception):
    """The layer's files are larger than the storage quota allows. `content` is their size so far, in bytes."""

    def __init__(self, content: int) -> None:
        super().__init__(content)
        self.content = content


@dataclass(frozen=True, slots=True)
class Result:
    """`size`: bytes of the disk. `content`: bytes of regular files, which Docker counts as a layer's size."""

    entries: int
    size: int
    content: int


def write_erofs(
    read: Callable[[int], bytes],
    out: BinaryIO,
    copied: Callable[[int], None] = lambda _: None,
    limits: Limits = NO_LIMITS,
) -> Result:
    """Convert a tar into a disk. `read(n)` returns n bytes, fewer only at the end; `out` is seekable and empty.

    After a read whose bytes went to the disk unchanged, `copied` gets their offset in `out`.

    ProtocolError for a tar that no archiver writes: a name that leaves the layer with `..`, a hard link to a missing file, a
    truncated stream. QuotaExceeded or OSError (ENOSPC) for a layer beyond `limits`.
    """
    writer = _Writer(read, out, copied, limits)
    for entry in tarstream.entries(read):
        writer.add_untrusted(entry)
    return writer.finish()


class _Writer:
    def __init__(
        self, read: Callable[[int], bytes], out: BinaryIO, copied: Callable[[int], None], limits: Limits
    ) -> None:
        self._read = read
        self._copied = copied
        self._out = out
        self._limits = limits
        self._tree = Tree()
        self._next_block = 1
        self._count = 0
        self._content = 0
        self._written = 0
        self._tails = 0
        out.seek(BLOCK)

    # -- entries --------------------------------------------------------------------------------------------------

    def add_untrusted(self, entry: tarstream.Entry) -> None:
        self._count += 1
        if self._count > _MAX_ENTRIES:
            raise ProtocolError(f"invalid tar: more than {_MAX_ENTRIES} entries")
        place = self._tree.parent_of(entry.name)
        if place is None:
            self._skip(entry.stored)
            if entry.kind == b"5":
                self._describe(self._tree.root, entry, stat.S_IFDIR)
            return
        parent, name = place
        if self._tree.add_whiteout(parent, name):
            self._skip(entry.stored)
            return
        if entry.kind == b"1":
            self._skip(entry.stored)
            self._tree.add_hard_link(parent, name, entry.name, entry.link)
            return
        if entry.kind == b"5":
            self._skip(entry.stored)
            assert parent.children is not None
            node = parent.children.get(name)
            if node is None or node.children is None:
                node = Node(0, children={})
            self._describe(node, entry, stat.S_IFDIR)
        else:
            node = self._make(entry)
        self._tree.put(parent, name, node)

    def _make(self, entry: tarstream.Entry) -> Node:
        node = Node(0)
        if entry.kind in (b"0", b"\0", b"7", b"S"):
            self._describe(node, entry, stat.S_IFREG)
            self._content += entry.size
            if self._content > self._limits.content:
                raise QuotaExceeded(self._content)
            self._copy(node, entry)
            return node
        self._skip(entry.stored)
        if entry.kind == b"2":
            self._describe(node, entry, stat.S_IFLNK)
            node.mode = stat.S_IFLNK | 0o777
            if not entry.link:
                raise ProtocolError("invalid tar: empty symbolic link")
            self._tree.count_text(len(entry.link))
            node.tail = entry.link
            node.size = len(entry.link)
        elif entry.kind in (b"3", b"4"):
            self._describe(node, entry, stat.S_IFCHR if entry.kind == b"3" else stat.S_IFBLK)
            # new_encode_dev of include/linux/kdev_t.h
            node.device = (entry.minor & 0xFF) | (entry.major & 0xFFF) << 8 | (entry.minor & 0xFFF00) << 12
        elif entry.kind == b"6":
            self._describe(node, entry, stat.S_IFIFO)
        else:
            raise ProtocolError(f"invalid tar: unknown entry type {entry.kind!r}")
        return node

    def _describe(self, node: Node, entry: tarstream.Entry, kind: int) -> None:
        node.mode = kind | entry.mode
        node.uid, node.gid, node.mtime_ns = entry.uid, entry.gid, entry.mtime_ns
        if entry.xattrs:
            node.xattrs.update(entry.xattrs)
            sizes = [len(key) + len(value) for key, value in node.xattrs.items()]
            longest = max(map(len, node.xattrs.values()))
            if len(sizes) > 1024 or sum(sizes) > _MAX_XATTRS or longest > 65535 or max(map(len, node.xattrs)) > 255:
                raise ProtocolError("invalid tar: too many or too large extended attributes")
            self._tree.count_text(sum(sizes))

    def _copy(self, node: Node, entry: tarstream.Entry) -> None:
        size = node.size = entry.size
        node.block = self._next_block
        if self._next_block * BLOCK + size > _MAX_DISK:
            raise ProtocolError(f"invalid tar: the files of the layer are larger than {_MAX_DISK >> 40} TiB")
        if entry.pieces is not None:
            base = self._next_block * BLOCK
            for offset, length in entry.pieces:
                self._out.seek(base + offset)
                self._copy_bytes(length)
            self._next_block += -(-size // BLOCK)
            self._out.seek(self._next_block * BLOCK)
            return
        tail = size % BLOCK
        # A short tail goes behind its inode: small files then need no block of their own.
        # Except when xattrs fill the inode's block.
        inline = (
            0 < tail <= BLOCK // 2
            and self._tails + tail <= _MAX_TAILS
            and len(encode_xattrs(node.xattrs)[0]) <= BLOCK // 4
        )
        self._copy_bytes(size - tail if inline else size)
        if inline:
            node.tail = tarstream.exactly(self._read, tail)
            self._tails += tail
            self._next_block += size // BLOCK
        else:
            if tail:
                self._out.write(bytes(BLOCK - tail))
            self._next_block += -(-size // BLOCK)

    def _copy_bytes(self, left: int) -> None:
        while left:
            chunk = self._read(min(_COPY, left))
            if not chunk:
                raise ProtocolError("unexpected EOF")
            self._written += len(chunk)
            if self._written > self._limits.written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            offset = self._out.tell()
            self._out.write(chunk)
            self._copied(offset)
            left -= len(chunk)

    def _skip(self, left: int) -> None:
        while left:
            left -= len(tarstream.exactly(self._read, min(_COPY, left)))

    # -- metadata -------------------------------------------------------------------------------------------------

    def finish(self) -> Result:
        nodes = self._number_nodes()
        meta = self._next_block
        places: list[tuple[int, Node, bytes, int, bool]] = []
        offset = 2 * SLOT
        for node in nodes:
            xattrs, count = encode_xattrs(node.xattrs)
            if node.children is not None:
                names = sorted((b".", b"..", *node.children))
                node.size = directory_size(names)
                tail = node.size % BLOCK
            else:
                tail = len(node.tail)
            head = INODE_SIZE + len(xattrs)
            offset += -offset % SLOT
            if offset % BLOCK + INODE_SIZE > BLOCK:
                offset += -offset % BLOCK
            inline = 0 < tail <= BLOCK - INODE_SIZE and head + tail <= BLOCK
            if inline and (offset + head) // BLOCK != (offset + head + tail - 1) // BLOCK:
                # The tail must not cross a block. From the start of a block, inode, xattrs and tail fit into that block.
                offset += -offset % BLOCK
            node.number = offset // SLOT
            places.append((offset, node, xattrs, count, inline))
            offset += head + (tail if inline else 0)
        buffer = bytearray(-(-offset // BLOCK) * BLOCK)
        extra: list[bytes] = []
        first_extra = meta + len(buffer) // BLOCK
        for place, node, xattrs, count, inline in places:
            self._encode(buffer, place, node, xattrs, count, inline, extra, first_extra)
        self._out.seek(meta * BLOCK)
        self._out.write(buffer)
        for block in extra:
            self._out.write(block)
        blocks = first_extra + len(extra)
        self._out.truncate(blocks * BLOCK)
        offset, block = erofs_format.superblock(self._tree.root.number, len(nodes), blocks, meta)
        self._out.seek(offset)
        self._out.write(block)
        return Result(self._count, blocks * BLOCK, self._content)

    def _number_nodes(self) -> list[Node]:
        """Return every inode once, the root first, and set its parent and its count of links."""
        order: list[Node] = []
        stack = [(self._tree.root, self._tree.root)]
        while stack:
            node, parent = stack.pop()
            if node.number != -1:
                continue
            node.number = -2
            node.parent = parent
            order.append(node)
            if node.children is not None:
                node.links = 2 + sum(1 for child in node.children.values() if child.children is not None)
                stack.extend((child, node) for child in node.children.values())
        # A later entry may have replaced a hard link, so count the names that are left.
        seen: dict[int, int] = {}
        for node in order:
            if node.children is not None:
                for child in node.children.values():
                    if child.children is None:
                        seen[id(child)] = seen.get(id(child), 0) + 1
        for node in order:
            if node.children is None:
                node.links = seen[id(node)]
        return order

    @staticmethod
    def _encode(
        buffer: bytearray,
        place: int,
        node: Node,
        xattrs: bytes,
        count: int,
        inline: bool,
        extra: list[bytes],
        first: int,
    ) -> None:
        kind = stat.S_IFMT(node.mode)
        where = node.block
        tail = node.tail
        if node.children is not None:
            assert node.parent is not None
            entries = [(b".", node.number, 2), (b"..", node.parent.number, 2)]
            entries += [
                (name, child.number, FILE_TYPES[stat.S_IFMT(child.mode)]) for name, child in node.children.items()
            ]
            blocks = directory_blocks(sorted(entries))
            tail = blocks.pop() if inline else b""
            where = first + len(extra)
            extra.extend(block.ljust(BLOCK, b"\0") for block in blocks)
        elif tail and not inline:
            # A symbolic link too long for its inode's block. The tail of a file always fits, see _copy.
            where = first + len(extra)
            extra.append(tail.ljust(BLOCK, b"\0"))
            tail = b""
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            where = node.device
        end = place + INODE_SIZE
        buffer[place:end] = erofs_format.inode(node, where, count, inline=inline)
        buffer[end : end + len(xattrs)] = xattrs
        end += len(xattrs)
        if inline:
            buffer[end : end + len(tail)] = tail
