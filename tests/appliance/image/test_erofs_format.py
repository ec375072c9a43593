"""The format of EROFS, piece by piece. The kernel and fsck.erofs judge whole disks in test_erofs.py."""

import stat
import struct

from appliance.image.erofs_format import (
    BLOCK,
    INODE_SIZE,
    Node,
    directory_blocks,
    directory_size,
    encode_xattrs,
    inode,
    superblock,
)


def test_the_superblock() -> None:
    offset, block = superblock(root=2, inodes=7, blocks=9, first_meta_block=3)
    assert (offset, len(block)) == (1024, 128)
    magic, checksum, compatible, bits, _, root, inodes = struct.unpack_from("<IIIBBHQ", block)
    assert (magic, checksum, compatible, bits, root, inodes) == (0xE0F5E1E2, 0, 0, 12, 2, 7)
    blocks, meta = struct.unpack_from("<II", block, 36)
    assert (blocks, meta) == (9, 3)


def test_an_inode() -> None:
    node = Node(stat.S_IFREG | 0o644, uid=1, gid=2, mtime_ns=-500_000_000, size=5, number=77, links=3)
    packed = inode(node, data=8, xattr_count=4, inline=True)
    assert len(packed) == INODE_SIZE == 64
    layout, xattrs, mode, _, size, where, number, uid, gid, seconds, nanos, links = struct.unpack(
        "<HHHHQIIIIQII16x", packed
    )
    assert (layout, xattrs, mode, size, where, number) == (1 | 2 << 1, 4, stat.S_IFREG | 0o644, 5, 8, 77)
    assert (uid, gid, links) == (1, 2, 3)
    # Before 1970: seconds round down.
    assert (seconds, nanos) == (2**64 - 1, 500_000_000)
    assert struct.unpack_from("<H", inode(node, 8, 4, inline=False))[0] == 1


def test_xattrs() -> None:
    assert encode_xattrs({}) == (b"", 0)
    packed, count = encode_xattrs({b"user.b": b"value", b"trusted.overlay.opaque": b"y", b"unknown.x": b"z"})
    assert packed[:12] == bytes(12)
    assert len(packed) % 4 == 0
    assert count == (len(packed) - 12) // 4 + 1
    assert b"overlay.opaque" + b"y" in packed
    assert b"unknown" not in packed


def test_a_directory_fills_its_blocks() -> None:
    names = sorted([b".", b"..", *(b"name%04d" % number for number in range(1000))])
    blocks = directory_blocks([(name, number, 1) for number, name in enumerate(names)])
    assert all(len(block) <= BLOCK for block in blocks)
    assert directory_size(names) == (len(blocks) - 1) * BLOCK + len(blocks[-1])
    found = []
    for block in blocks:
        count = struct.unpack_from("<H", block, 8)[0] // 12
        heads = [struct.unpack_from("<QHBB", block, 12 * at) for at in range(count)]
        ends = [head[1] for head in heads[1:]] + [len(block)]
        found += [(block[head[1] : end], head[0]) for head, end in zip(heads, ends, strict=True)]
    assert found == [(name, number) for number, name in enumerate(names)]
