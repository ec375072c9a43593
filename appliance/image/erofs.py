"""A tar stream written as an EROFS disk in one pass (Documentation/filesystems/erofs.rst, fs/erofs/erofs_fs.h).

Uncompressed, 4 KiB blocks. File data goes out as it arrives, from block 1; inodes, xattrs and directories follow, the super
block is filled in last. Whiteouts become overlayfs's: `.wh.NAME` a character device 0:0, `.wh..wh..opq` the xattr
trusted.overlay.opaque. The root inode comes first, because its number has 16 bits.
"""

import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from appliance.errors import ProtocolError
from appliance.image import tarstream

BLOCK = 4096
_MAGIC = 0xE0F5E1E2
_COPY = 1 << 20
_MAX_ENTRIES = 2_000_000
_SLOT = 32
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_TYPES = {
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
class _Node:
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    block: int = 0
    tail: bytes = b""
    device: int = 0
    children: "dict[bytes, _Node] | None" = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    links: int = 1
    number: int = -1
    parent: "_Node | None" = None


@dataclass(frozen=True, slots=True)
class Result:
    entries: int
    size: int
    """Bytes of regular files, as Docker counts a layer's size."""
    content: int


def write_erofs(read: Callable[[int], bytes], out: BinaryIO, copied: Callable[[int], None] = lambda _: None) -> Result:
    """Convert the tar that `read(n)` gives (n bytes, fewer only at the end) into `out` (seekable, empty).

    `copied` is told where in `out` the bytes are that were read last, if they are there just as they came.

    ProtocolError for what no archiver writes: names that climb out with `..`, links to nothing, truncation.
    """
    writer = _Writer(read, out, copied)
    for entry in tarstream.entries(read):
        writer.add_untrusted(entry)
    return writer.finish()


def _directory(mode: int = 0o755) -> _Node:
    return _Node(stat.S_IFDIR | mode, children={})


class _Writer:
    def __init__(self, read: Callable[[int], bytes], out: BinaryIO, copied: Callable[[int], None]) -> None:
        self._read = read
        self._copied = copied
        self._out = out
        self._root = _directory()
        self._next_block = 1
        self._count = 0
        self._content = 0
        out.seek(BLOCK)

    # -- names ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _split(name: bytes) -> list[bytes]:
        parts: list[bytes] = []
        for part in name.split(b"/"):
            if part == b"..":
                if not parts:
                    raise ProtocolError(f'invalid tar: "{name.decode("utf-8", "replace")}" is outside of the layer')
                parts.pop()
            elif part not in (b"", b"."):
                if len(part) > 255 or b"\0" in part:
                    raise ProtocolError("invalid tar: file name too long")
                parts.append(part)
        return parts

    def _folder(self, parts: list[bytes]) -> _Node:
        node = self._root
        for part in parts:
            assert node.children is not None
            child = node.children.get(part)
            if child is None or child.children is None:
                child = node.children[part] = _directory()
            node = child
        return node

    # -- entries --------------------------------------------------------------------------------------------------

    def add_untrusted(self, entry: tarstream.Entry) -> None:
        self._count += 1
        if self._count > _MAX_ENTRIES:
            raise ProtocolError(f"invalid tar: more than {_MAX_ENTRIES} entries")
        parts = self._split(entry.name)
        if not parts:
            self._skip(entry.stored)
            if entry.kind == b"5":
                self._describe(self._root, entry, stat.S_IFDIR)
            return
        parent = self._folder(parts[:-1])
        assert parent.children is not None
        name = parts[-1]
        if name.startswith(b".wh."):
            self._skip(entry.stored)
            if name == b".wh..wh..opq":
                parent.xattrs[b"trusted.overlay.opaque"] = b"y"
            elif not name.startswith(b".wh..wh."):
                parent.children[name[4:]] = _Node(stat.S_IFCHR)
            return
        if entry.kind == b"1":
            self._skip(entry.stored)
            parent.children[name] = self._link_target(entry)
            return
        existing = parent.children.get(name)
        if entry.kind == b"5":
            self._skip(entry.stored)
            node = existing if existing is not None and existing.children is not None else _directory()
            self._describe(node, entry, stat.S_IFDIR)
        else:
            node = self._make(entry)
        parent.children[name] = node

    def _link_target(self, entry: tarstream.Entry) -> _Node:
        parts = self._split(entry.link)
        node: _Node | None = self._root
        for part in parts:
            node = node.children.get(part) if node is not None and node.children is not None else None
        if node is None or node.children is not None:
            raise ProtocolError(f"invalid tar: hard link to nothing: {entry.link.decode('utf-8', 'replace')}")
        node.links += 1
        return node

    def _make(self, entry: tarstream.Entry) -> _Node:
        node = _Node(0)
        if entry.kind in (b"0", b"\0", b"7", b"S"):
            self._describe(node, entry, stat.S_IFREG)
            self._copy(node, entry)
            self._content += entry.size
            return node
        self._skip(entry.stored)
        if entry.kind == b"2":
            self._describe(node, entry, stat.S_IFLNK)
            node.mode = stat.S_IFLNK | 0o777
            if not entry.link:
                raise ProtocolError("invalid tar: empty symbolic link")
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

    @staticmethod
    def _describe(node: _Node, entry: tarstream.Entry, kind: int) -> None:
        node.mode = kind | entry.mode
        node.uid, node.gid, node.mtime_ns = entry.uid, entry.gid, entry.mtime_ns
        if len(entry.xattrs) > 1024 or any(len(key) > 260 or len(value) > 65535 for key, value in entry.xattrs.items()):
            raise ProtocolError("invalid tar: too many or too large extended attributes")
        node.xattrs.update(entry.xattrs)

    def _copy(self, node: _Node, entry: tarstream.Entry) -> None:
        size = node.size = entry.size
        node.block = self._next_block
        if entry.pieces is not None:
            base = self._next_block * BLOCK
            for offset, length in entry.pieces:
                self._out.seek(base + offset)
                self._copy_bytes(length)
            self._next_block += -(-size // BLOCK)
            self._out.seek(self._next_block * BLOCK)
            return
        tail = size % BLOCK
        # A short tail goes behind its inode: small files then cost no block of their own.
        # Not so with extended attributes that fill the inode's block.
        inline = 0 < tail <= BLOCK // 2 and len(_encode_xattrs(node.xattrs)[0]) <= BLOCK // 4
        self._copy_bytes(size - tail if inline else size)
        if inline:
            node.tail = tarstream.exactly(self._read, tail)
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
        places: list[tuple[int, _Node, bytes, int, bool]] = []
        offset = 2 * _SLOT
        for node in nodes:
            xattrs, count = _encode_xattrs(node.xattrs)
            if node.children is not None:
                names = sorted((b".", b"..", *node.children))
                node.size = _directory_size(names)
                tail = node.size % BLOCK
            else:
                tail = len(node.tail)
            head = _INODE.size + len(xattrs)
            offset += -offset % _SLOT
            if offset % BLOCK + _INODE.size > BLOCK:
                offset += -offset % BLOCK
            inline = 0 < tail <= BLOCK - _INODE.size and head + tail <= BLOCK
            if inline and (offset + head) // BLOCK != (offset + head + tail - 1) // BLOCK:
                # The tail must not cross a block; neither then does the rest, since all of it fits into one.
                offset += -offset % BLOCK
            node.number = offset // _SLOT
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
        self._out.seek(1024)
        self._out.write(
            struct.pack(
                "<IIIBBHQQIIII16s16sI",
                _MAGIC,
                0,
                0,
                12,
                0,
                self._root.number,
                len(nodes),
                0,
                0,
                blocks,
                meta,
                0,
                bytes(16),
                b"",
                0,
            ).ljust(128, b"\0")
        )
        return Result(self._count, blocks * BLOCK, self._content)

    def _number_nodes(self) -> list[_Node]:
        """All inodes once, the root first, each with its parent."""
        order: list[_Node] = []
        stack = [(self._root, self._root)]
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
        # A hard link that was replaced later leaves fewer names than were counted.
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
        node: _Node,
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
            entries += [(name, child.number, _TYPES[stat.S_IFMT(child.mode)]) for name, child in node.children.items()]
            blocks = _directory_blocks(sorted(entries))
            tail = blocks.pop() if inline else b""
            where = first + len(extra)
            extra.extend(block.ljust(BLOCK, b"\0") for block in blocks)
        elif tail and not inline:
            # A link too long for its inode's block; the tail of a file always fits, _copy sees to that.
            where = first + len(extra)
            extra.append(tail.ljust(BLOCK, b"\0"))
            tail = b""
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            where = node.device
        layout = 2 if inline else 0
        _INODE.pack_into(
            buffer,
            place,
            1 | layout << 1,
            count,
            node.mode,
            0,
            node.size,
            where,
            node.number & 0xFFFFFFFF,
            node.uid,
            node.gid,
            (node.mtime_ns // 1_000_000_000) & 0xFFFFFFFFFFFFFFFF,
            node.mtime_ns % 1_000_000_000,
            node.links,
        )
        end = place + _INODE.size
        buffer[end : end + len(xattrs)] = xattrs
        end += len(xattrs)
        if inline:
            buffer[end : end + len(tail)] = tail


def _encode_xattrs(xattrs: dict[bytes, bytes]) -> tuple[bytes, int]:
    """The inline xattr area and i_xattr_icount."""
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


def _directory_size(names: list[bytes]) -> int:
    used = full = 0
    for name in names:
        need = 12 + len(name)
        if used + need > BLOCK:
            full += 1
            used = 0
        used += need
    return full * BLOCK + used


def _directory_blocks(entries: list[tuple[bytes, int, int]]) -> list[bytes]:
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
