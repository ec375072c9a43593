"""The program that reads a build context: `python -m appliance.image.context_scan`, a child process of vchd (engine/builds/context.py).

Its standard input is a Job, its standard output a Scan, both JSON. It looks for the Dockerfile and for `.dockerignore`, as dockerd's
classic builder does (moby builder/remotecontext/detect.go): the patterns of `.dockerignore` were applied by the client, and dockerd
applies them to these two files alone. If they match, the context is written again without the files.
"""

import io
import os
import posixpath
import sys
import tarfile
from collections.abc import Iterator
from typing import IO

import msgspec

from appliance.errors import InvalidParameter, ProtocolError, VchError
from appliance.image import tarstream
from appliance.image.confined import confine, limit_cpu_time
from appliance.image.dockerfile_steps import Step, steps_of
from appliance.image.dockerignore import MAX_FILE, is_ignored, read_patterns
from appliance.streams.compression import MAGIC, PIECE, Decoder, Plain, decoder_for

MAX_MEMORY = 512 << 20
MAX_CPU_SECONDS = 600
MAX_MEMBERS = 1_000_000
MAX_DECOMPRESSED = 8 << 30
MAX_DOCKERFILE = 16 << 20
SPARE = 1 << 30
"""Bytes that contexts leave free on the file system of the scratch folder."""
IGNORE_FILE = ".dockerignore"
CONTEXT_FOLDER = "context"
"""The folder of a rewritten archive that has the context: the Dockerfile is beside it."""
_DEFAULT = "Dockerfile"
_FILES = (b"0", b"\0", b"7")
_BLOCK = 512
_CHECKED = 16 << 20  # bytes between two looks at the file system


class Job(msgspec.Struct):
    """`archive` is the path of the context as it came, `rewritten` where it may be written again, with at most `limit` bytes."""

    archive: str
    rewritten: str
    dockerfile: str
    target: str = ""
    limit: int = MAX_DECOMPRESSED


class Scan(msgspec.Struct):
    """What BuildKit needs to know: where the Dockerfile is in the archive.

    `rewritten`: the other archive counts. `folder`: the folder of the archive that is the context, "" for all of it. `error` is the text
    of a fault of the context.
    """

    dockerfile: str = ""
    steps: list[Step] = []
    rewritten: bool = False
    folder: str = ""
    error: str = ""


class _Source:
    """Reads an archive, plain or compressed. Keeps what `read` returns until `take`."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        decoder = decoder_for(file.read(MAGIC))
        file.seek(0)
        self._pieces = None if isinstance(decoder, Plain) else self._decompressed(decoder)
        # The piece that is read, and how much of it was.
        self._piece, self._taken = b"", 0
        self._position = 0
        self._kept = bytearray()

    def _decompressed(self, decoder: Decoder) -> Iterator[bytes]:
        total = 0
        while data := self._file.read(PIECE):
            for piece in decoder.decompress(data):
                total += len(piece)
                if total > MAX_DECOMPRESSED:
                    raise ProtocolError(f"more than {MAX_DECOMPRESSED >> 30} GiB when decompressed")
                yield piece
        decoder.finish()

    def read(self, size: int) -> bytes:
        """At most `size` bytes, none at the end."""
        data = self._next(size)
        if not data and (missing := -self._position % _BLOCK):
            # Go's tar reader needs no padding behind the last member, and `docker build -f -` sends none.
            data = bytes(min(size, missing))
            self._position += len(data)
        self._kept += data
        return data

    def take(self) -> bytes:
        """What `read` has returned since the last call."""
        data = bytes(self._kept)
        self._kept.clear()
        return data

    def copy(self, size: int, out: "IO[bytes] | _Rewritten | None") -> None:
        """Write the next bytes to `out`, if there is one. ProtocolError when there are fewer."""
        while size:
            data = self._next(min(size, PIECE))
            if not data:
                raise ProtocolError("unexpected EOF")
            if out is not None:
                out.write(data)
            size -= len(data)

    def skip(self, size: int) -> None:
        """Pass over the next bytes. ProtocolError when there are fewer."""
        if self._pieces is not None:
            self.copy(size, None)
            return
        place = self._file.tell() + size
        if place > self._file.seek(0, io.SEEK_END):
            raise ProtocolError("unexpected EOF")
        self._file.seek(place)
        self._position += size

    def _next(self, size: int) -> bytes:
        if self._pieces is None:
            data = self._file.read(size)
        else:
            if self._taken == len(self._piece):
                self._piece, self._taken = next(self._pieces, b""), 0
            data = self._piece[self._taken : self._taken + size]
            self._taken += len(data)
        self._position += len(data)
        return data


class _Rewritten:
    """A context that is written again. A compressed context of some KiB may become gigabytes. InvalidParameter beyond `limit` bytes."""

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self._limit = limit
        self._size = 0
        self._next_check = 0

    def write(self, data: bytes) -> None:
        """Write all of it. InvalidParameter also when the file system becomes full."""
        self._size += len(data)
        if self._size > self._limit:
            raise InvalidParameter(
                f"the build context is larger than {self._limit} bytes when decompressed, see --builder-disk"
            )
        if self._size >= self._next_check:
            self._next_check = self._size + _CHECKED
            found = os.fstatvfs(self._file.fileno())
            if found.f_bavail * found.f_frsize < SPARE:
                raise InvalidParameter("no space left on device for the build context")
        self._file.write(data)


def scan(job: Job) -> Scan:
    """Read the context. InvalidParameter and ProtocolError for a context that cannot be built."""
    path = _inside(job.dockerfile, f"forbidden path outside the build context: {job.dockerfile} ()")
    found = _find(job.archive, path)
    if path == _DEFAULT and path not in found.files and _DEFAULT.lower() in found.files:
        path = _DEFAULT.lower()
    content = found.files.get(found.resolved.get(path, path))
    if content is None:
        if found.through_link:
            # A folder on the way is a symbolic link: BuildKit finds the file, or says that it is not there.
            return Scan(path)
        raise InvalidParameter(f"Cannot locate specified Dockerfile: {job.dockerfile}")
    if not content:
        raise InvalidParameter(f"the Dockerfile ({path}) cannot be empty")
    result = Scan(path, _steps(content, job.target))
    dropped = _dropped(found.files.get(IGNORE_FILE), path)
    if not dropped:
        return result
    result.rewritten = True
    if path in dropped:
        result.dockerfile, result.folder = _DEFAULT, CONTEXT_FOLDER
    with open(job.archive, "rb") as archive, open(job.rewritten, "wb") as file:
        out = _Rewritten(file, job.limit)
        if path in dropped:
            _write_file(out, _DEFAULT, content)
            _write_folder(out)
        _copy(_Source(archive), out, dropped, f"{result.folder}/".encode() if result.folder else b"")
        out.write(bytes(2 * _BLOCK))
    return result


class _Found(msgspec.Struct):
    """The files of the archive that matter, the targets of links to them, and whether a folder above the Dockerfile is a link."""

    files: dict[str, bytes] = {}
    resolved: dict[str, str] = {}
    through_link: bool = False


def _find(archive: str, path: str) -> _Found:
    wanted = {path, IGNORE_FILE} | ({_DEFAULT.lower()} if path == _DEFAULT else set())
    found = _look(archive, wanted, path)
    target = found.resolved.get(path)
    if target is not None and target not in found.files:
        # The Dockerfile is a symbolic link, and its target may come before the link.
        again = _look(archive, {target}, target)
        found.files |= again.files
        found.through_link |= again.through_link or target in again.resolved
    return found


def _look(archive: str, wanted: set[str], path: str) -> _Found:
    found = _Found()
    with open(archive, "rb") as file:
        source = _Source(file)
        for count, entry in enumerate(tarstream.entries(source.read)):
            if count >= MAX_MEMBERS:
                raise ProtocolError(f"more than {MAX_MEMBERS} files")
            source.take()
            name = _member_name(entry)
            if entry.kind == b"2" and path.startswith(f"{name}/"):
                found.through_link = True
            # The last member of a name counts.
            if name in wanted and entry.kind in _FILES and entry.pieces is None:
                found.files[name] = _content(source, entry, name)
                continue
            if name in wanted and entry.kind in b"12":
                target = entry.link.decode("utf-8", "replace")
                target = target if entry.kind == b"1" else posixpath.join(posixpath.dirname(name), target)
                found.resolved[name] = posixpath.normpath(f"/{target.lstrip('/')}")[1:]
            source.skip(entry.stored)
    return found


def _content(source: _Source, entry: tarstream.Entry, name: str) -> bytes:
    if entry.stored > (MAX_FILE if name == IGNORE_FILE else MAX_DOCKERFILE):
        raise ProtocolError(f"{name} is too large")
    content = io.BytesIO()
    source.copy(entry.stored, content)
    return content.getvalue()


def _member_name(entry: tarstream.Entry) -> str:
    name = entry.name.decode("utf-8", "surrogateescape")
    return _inside(name, f"{name.encode('utf-8', 'replace').decode()} is outside of the build context")


def _inside(path: str, complaint: str) -> str:
    cleaned = posixpath.normpath(path.lstrip("/") or ".")
    if cleaned == ".." or cleaned.startswith("../"):
        raise InvalidParameter(complaint)
    return cleaned


def _steps(content: bytes, target: str) -> list[Step]:
    try:
        return steps_of(content.decode("utf-8", "replace"), target)
    except VchError:
        return []  # BuildKit's error names the line


def _dropped(ignore_file: bytes | None, dockerfile: str) -> set[str]:
    """The files that BuildKit is not to see in the context. As in moby, a malformed pattern drops nothing."""
    if ignore_file is None:
        return set()
    patterns = read_patterns(ignore_file)
    try:
        return {name for name in (IGNORE_FILE, dockerfile) if is_ignored(name, patterns)}
    except InvalidParameter:
        return set()


def _write_file(out: _Rewritten, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    out.write(member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % _BLOCK))


def _write_folder(out: _Rewritten) -> None:
    member = tarfile.TarInfo(CONTEXT_FOLDER)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    out.write(member.tobuf(tarfile.USTAR_FORMAT))


def _copy(source: _Source, out: _Rewritten, dropped: set[str], prefix: bytes) -> None:
    """Write the members but `dropped`, with a prefix in front of their names."""
    padding = 0
    for entry in tarstream.entries(source.read):
        head = source.take()[padding:]
        padding = -entry.stored % _BLOCK
        if _member_name(entry) in dropped:
            source.skip(entry.stored)
            continue
        out.write(_renamed(head, entry, prefix) if prefix else head)
        source.copy(entry.stored, out)
        out.write(bytes(padding))


def _renamed(head: bytes, entry: tarstream.Entry, prefix: bytes) -> bytes:
    """The headers of a member with other names, which stand in a pax header: its records come before all other names."""
    records, at = b"", 0
    while (kind := head[at + 156 : at + 157]) in (b"x", b"g", b"L", b"K"):
        size = tarstream.number(head[at + 124 : at + 136])
        if kind == b"x":
            records += head[at + _BLOCK : at + _BLOCK + size]
        at += _BLOCK + size + -size % _BLOCK
    names = {b"path": prefix + _relative(entry.name)}
    if b"GNU.sparse.name=" in records:
        names[b"GNU.sparse.name"] = names[b"path"]
    if entry.kind == b"1":
        names[b"linkpath"] = prefix + _relative(entry.link)
    records += b"".join(_record(key, value) for key, value in names.items())
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, len(records)
    return member.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % _BLOCK) + head[at:]


def _relative(name: bytes) -> bytes:
    return posixpath.normpath(name.lstrip(b"/") or b".")


def _record(key: bytes, value: bytes) -> bytes:
    """A record of a pax header: its own length in front."""
    rest = b" %s=%s\n" % (key, value)
    size = len(rest) + 1
    while size != len(rest) + len(b"%d" % size):
        size = len(rest) + len(b"%d" % size)
    return b"%d%s" % (size, rest)


def main() -> None:
    confine(MAX_MEMORY)
    limit_cpu_time(MAX_CPU_SECONDS)
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    try:
        result = scan(job)
    except (ProtocolError, ValueError) as error:
        # ValueError: a number of a pax header that is none.
        result = Scan(error=f"Error processing tar file: {error}")
    except InvalidParameter as error:
        result = Scan(error=str(error))
    except MemoryError:
        result = Scan(error="the build context needs too much memory to be read")
    sys.stdout.buffer.write(msgspec.json.encode(result))


if __name__ == "__main__":
    main()
