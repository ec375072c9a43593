"""The archive of `docker load`: received into a file, decompressed and within what the file system has room for; read member by member."""

import posixpath
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import IO, NamedTuple

import trio

from appliance.errors import ProtocolError, Unavailable
from appliance.image import tarstream
from appliance.image.layer import FilePart
from appliance.store import room_on
from appliance.streams.decompressed import decompressed

_MAX_MEMBERS = 100_000
_MAX_NAMES = 16 << 20  # bytes of all names and link targets
_MAX_LINKS = 40
_MAX_JSON = 8 << 20
_CHECKED = 16 << 20  # bytes between two looks at the file system


async def receive(body: AsyncGenerator[bytes, None], file: IO[bytes], folder: Path) -> None:
    """Write an archive, decompressed, into a file in `folder`. Unavailable when the file system has no room for it."""
    unchecked = _CHECKED
    async with aclosing(decompressed(body)) as pieces:
        async for piece in pieces:
            unchecked += len(piece)
            if unchecked >= _CHECKED:
                unchecked = 0
                if room_on(folder) < _CHECKED:
                    raise Unavailable("no space left on device for the archive")
            # A large write may wait for the disk.
            await trio.to_thread.run_sync(file.write, piece) if len(piece) > 1 << 16 else file.write(piece)
    await trio.to_thread.run_sync(file.flush)


class _Member(NamedTuple):
    """`link` is the name of the member that has the content, None for a file of its own. Offset and size are in bytes."""

    offset: int
    size: int
    link: str | None


class Archive:
    """The files of an archive, by name. Directories, devices and the like are ignored. Blocking. ProtocolError for a bad archive."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, _Member] = {}
        try:
            with open(path, "rb") as file:
                self._index(file)
        except ProtocolError as error:
            raise ProtocolError(f"invalid archive: {str(error).removeprefix('archive/tar: ')}") from error

    def _index(self, file: IO[bytes]) -> None:
        end = file.seek(0, 2)
        file.seek(0)
        names = 0
        for count, entry in enumerate(tarstream.entries(file.read)):
            offset = file.tell()
            if offset + entry.stored > end:
                raise ProtocolError("unexpected EOF")
            file.seek(entry.stored, 1)
            names += len(entry.name) + len(entry.link)
            if count >= _MAX_MEMBERS or names > _MAX_NAMES:
                raise ProtocolError(f"more than {_MAX_MEMBERS} files, or names too long")
            name = _text(entry.name).removeprefix("./")
            if entry.kind in (b"0", b"\0", b"7") and entry.pieces is None:
                self._members[name] = _Member(offset, entry.stored, None)
            elif entry.kind == b"1":
                self._members[name] = _Member(0, 0, _text(entry.link).removeprefix("./"))
            elif entry.kind == b"2":
                # docker save before 25 writes a layer that two images share as a symbolic link.
                target = posixpath.join(posixpath.dirname(name), _text(entry.link))
                self._members[name] = _Member(0, 0, posixpath.normpath(target))

    def has(self, name: str) -> bool:
        return name in self._members

    def _find(self, name: str) -> _Member:
        member = self._members.get(name)
        for _ in range(_MAX_LINKS):
            if member is None or member.link is None:
                break
            member = self._members.get(member.link)
        if member is None or member.link is not None:
            raise ProtocolError(f"invalid archive: {name} is missing")
        return member

    def source(self, name: str) -> FilePart:
        """Return a source of a member's bytes."""
        offset, size, _ = self._find(name)
        return FilePart(str(self._path), offset, size)

    def read_bytes(self, name: str) -> bytes:
        """Read a member, at most 8 MiB."""
        member = self._find(name)
        if member.size > _MAX_JSON:
            raise ProtocolError(f"invalid archive: {name} is too large")
        with open(self._path, "rb") as file:
            file.seek(member.offset)
            return file.read(member.size)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
