"""Reads a tar as a stream (POSIX ustar and pax, GNU long names and sparse files), with bounds for hostile archives.

Python's tarfile needs 50 µs per entry and seeks; a layer may have 100 000 entries and comes from the network.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from appliance.errors import ProtocolError

Read = Callable[[int], bytes]
_MAX_META = 1 << 20
_MAX_SIZE = 1 << 42
_MAX_PATH = 4096


@dataclass(slots=True)
class Entry:
    """One member. `size`: bytes of the file; `stored`: bytes that follow in the stream.

    `pieces`: for a sparse file, (offset, length) of each piece that follows; None for other files.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    stored: int
    mtime_ns: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[tuple[int, int]] | None = None


def number(raw: bytes) -> int:
    """A number of a header: octal text, or GNU's base 256. ProtocolError."""
    if raw[:1] and raw[0] & 0x80:
        value = int.from_bytes(raw, "big", signed=False) & ((1 << (8 * len(raw) - 1)) - 1)
        if raw[0] & 0x40:  # negative
            value -= 1 << (8 * len(raw) - 1)
        return value
    text = raw.split(b"\0", 1)[0].strip()
    if not text:
        return 0
    try:
        return int(text, 8)
    except ValueError:
        raise ProtocolError("archive/tar: invalid tar header") from None


def _time_ns(text: bytes) -> int:
    whole, _, fraction = text.partition(b".")
    value = int(whole or b"0")
    nanos = int((fraction + b"000000000")[:9] or b"0")
    return value * 1_000_000_000 + (-nanos if text.startswith(b"-") else nanos)


def exactly(read: Read, size: int) -> bytes:
    """Read `size` bytes; ProtocolError when the stream ends before."""
    data = read(size)
    while len(data) < size:
        more = read(size - len(data))
        if not more:
            raise ProtocolError("unexpected EOF")
        data += more
    return data


def _pax(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    sparse: list[bytes] = []
    position = 0
    while position < len(data):
        space = data.find(b" ", position)
        digits = data[position:space]
        if space < 0 or not digits.isdigit() or len(digits) > 8:
            raise ProtocolError("archive/tar: invalid tar header")
        end = position + int(digits)
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if end > len(data) or end <= space or not equals or data[end - 1 : end] != b"\n":
            raise ProtocolError("archive/tar: invalid tar header")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            sparse.append(value)
        records[key] = value
        position = end
    if sparse:
        records[b"GNU.sparse.map"] = b",".join(sparse)
    return records


def entries(read: Read) -> Iterator[Entry]:
    """Yield the members. After each, the caller must `read` its `stored` bytes; the padding is skipped here. ProtocolError for bad tars."""
    try:
        yield from _entries(read)
    except (ValueError, LookupError, OverflowError) as error:
        raise ProtocolError("archive/tar: invalid tar header") from error


def _entries(read: Read) -> Iterator[Entry]:
    pax: dict[bytes, bytes] = {}
    long_name = long_link = None
    while True:
        header = read(512)
        if not header or header.count(0) == len(header):
            return
        if len(header) < 512:
            header += exactly(read, 512 - len(header))
        if number(header[148:156]) != sum(header) - sum(header[148:156]) + 256:
            raise ProtocolError("archive/tar: invalid tar header")
        kind = header[156:157]
        size = number(header[124:136])
        if not 0 <= size <= _MAX_SIZE:
            raise ProtocolError("archive/tar: invalid tar header")
        if kind in (b"x", b"g", b"L", b"K"):
            if size > _MAX_META:
                raise ProtocolError("archive/tar: header field too long")
            data = exactly(read, size + -size % 512)[:size]
            if kind == b"x":
                pax = _pax(data)
            elif kind == b"g":
                # Docker ignores global headers (moby pkg/archive, TypeXGlobalHeader). Each of their records would else cost memory
                # in every entry that follows.
                _pax(data)
            elif kind == b"L":
                long_name = data.rstrip(b"\0")
            else:
                long_link = data.rstrip(b"\0")
            continue
        name = header[:100].split(b"\0", 1)[0]
        if header[257:263] == b"ustar\0" and header[345]:
            name = header[345:500].split(b"\0", 1)[0] + b"/" + name
        size = int(pax.get(b"size", size))
        pieces = None
        stored = size
        if kind == b"S":
            pieces, size = _old_sparse(header, read)
        entry = Entry(
            name=pax.get(b"path") or long_name or name,
            kind=kind,
            mode=number(header[100:108]) & 0o7777,
            uid=int(pax.get(b"uid", number(header[108:116]))),
            gid=int(pax.get(b"gid", number(header[116:124]))),
            size=size,
            stored=stored,
            mtime_ns=_time_ns(pax[b"mtime"]) if b"mtime" in pax else number(header[136:148]) * 1_000_000_000,
            link=pax.get(b"linkpath") or long_link or header[157:257].split(b"\0", 1)[0],
            major=number(header[329:337]) if kind in b"34" else 0,
            minor=number(header[337:345]) if kind in b"34" else 0,
            xattrs={key[13:]: value for key, value in pax.items() if key.startswith(b"SCHILY.xattr.")},
            pieces=pieces,
        )
        used = 0
        if b"GNU.sparse.major" in pax or b"GNU.sparse.size" in pax or b"GNU.sparse.realsize" in pax:
            used = _pax_sparse(entry, pax, read)
        entry.stored -= used
        if max(len(entry.name), len(entry.link)) > _MAX_PATH or not 0 <= entry.size <= _MAX_SIZE:
            raise ProtocolError("archive/tar: header field too long")
        if min(entry.uid, entry.gid) < 0 or max(entry.uid, entry.gid) > 0xFFFFFFFF or entry.stored < 0:
            raise ProtocolError("archive/tar: invalid tar header")
        if entry.pieces is not None:
            _check_pieces(entry)
        padding = -(entry.stored + used) % 512
        yield entry
        if padding:
            exactly(read, padding)
        pax, long_name, long_link = {}, None, None


def _old_sparse(header: bytes, read: Read) -> tuple[list[tuple[int, int]], int]:
    """GNU's old format: four pieces in the header, more in the blocks that follow."""
    pieces = []
    block, start, count, more = header, 386, 4, header[482]
    while True:
        for at in range(start, start + 24 * count, 24):
            if block[at + 12]:
                pieces.append((number(block[at : at + 12]), number(block[at + 12 : at + 24])))
        if not more:
            return pieces, number(header[483:495])
        block = exactly(read, 512)
        start, count, more = 0, 21, block[504]
        if len(pieces) > 1 << 16:
            raise ProtocolError("archive/tar: too many sparse pieces")


def _pax_sparse(entry: Entry, fields: dict[bytes, bytes], read: Read) -> int:
    """GNU's pax formats 0.0, 0.1 and 1.0. Returns how many stored bytes the map itself takes (1.0 only)."""
    entry.name = fields.get(b"GNU.sparse.name", entry.name)
    entry.size = int(fields.get(b"GNU.sparse.realsize") or fields[b"GNU.sparse.size"])
    used = 0
    if fields.get(b"GNU.sparse.major") == b"1":
        data = bytearray()
        lines = 0
        wanted: int | None = None
        while wanted is None or lines < wanted:
            if used >= entry.stored or used > _MAX_META:
                raise ProtocolError("archive/tar: invalid sparse map")
            block = exactly(read, 512)
            data += block
            lines += block.count(b"\n")
            used += 512
            if wanted is None and lines:
                wanted = 1 + 2 * int(data.split(b"\n", 1)[0])
        numbers = [int(value) for value in data.split(b"\n")[1:wanted]]
    else:
        numbers = [int(value) for value in fields.get(b"GNU.sparse.map", b"").split(b",") if value]
    entry.pieces = list(zip(numbers[::2], numbers[1::2], strict=True))
    return used


def _check_pieces(entry: Entry) -> None:
    end = 0
    for offset, length in entry.pieces or ():
        if offset < end or length < 0:
            raise ProtocolError("archive/tar: invalid sparse map")
        end = offset + length
    if end > entry.size or sum(length for _, length in entry.pieces or ()) != entry.stored:
        raise ProtocolError("archive/tar: invalid sparse map")
