"""Reads an OVA file: its descriptor, manifest and disks (DSP0243, 5.1)."""

import hashlib
import re
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO

import trio

from appliance.errors import InvalidParameter

_MOST = 1 << 20
_PIECE = 1 << 20
_DIGESTS = {"SHA1": "sha1", "SHA256": "sha256", "SHA512": "sha512"}
_DIGEST_LINE = re.compile(r"(SHA1|SHA256|SHA512)\((.+)\)= ?([0-9a-fA-F]+)")


class OvaFile:
    """A complete OVA: every file in it has the digest of the manifest."""

    def __init__(self, path: Path) -> None:
        """Read the whole file once. InvalidParameter when the file is not a complete OVA."""
        self._path = path
        self.descriptor = ""
        # Offset and length of each file, in bytes.
        self._members: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    self._members[member.name] = member.offset_data, member.size
            with path.open("rb") as file:
                self._check(file)
        except (OSError, tarfile.TarError, UnicodeDecodeError, ValueError) as error:
            raise InvalidParameter(f"--ova {path}: {error}") from error

    def _check(self, file: IO[bytes]) -> None:
        def small(suffix: str) -> str:
            names = [name for name in self._members if name.endswith(suffix)]
            if len(names) != 1 or self._members[names[0]][1] > _MOST:
                raise ValueError(f"expected one {suffix} file of at most {_MOST} bytes")
            place, length = self._members[names[0]]
            file.seek(place)
            return file.read(length).decode()

        self.descriptor = small(".ovf")
        expected = {}
        for line in filter(None, small(".mf").splitlines()):
            found = _DIGEST_LINE.fullmatch(line.strip())
            if found is None:
                raise ValueError(f"malformed line in the manifest: {line!r}")
            expected[found[2]] = found[1], found[3].lower()
        for name, (place, length) in self._members.items():
            if name.endswith((".mf", ".cert")):
                continue
            if name not in expected:
                raise ValueError(f"the manifest has no digest of {name}")
            kind, digest = expected[name]
            summed = hashlib.new(_DIGESTS[kind])
            file.seek(place)
            while length:
                piece = file.read(min(length, _PIECE))
                if not piece:
                    raise ValueError(f"{name} is truncated")
                summed.update(piece)
                length -= len(piece)
            if summed.hexdigest() != digest:
                raise ValueError(f"{name} does not have the digest of the manifest")

    def length(self, name: str) -> int:
        """The length of a file in bytes. InvalidParameter when there is no such file."""
        if name not in self._members:
            raise InvalidParameter(f"--ova {self._path}: no file {name}")
        return self._members[name][1]

    async def pieces(self, name: str, size: int) -> AsyncIterator[bytes]:
        """The bytes of a file, in pieces of at most `size`."""
        place, length = self._members[name]
        with self._path.open("rb") as file:
            file.seek(place)
            while length:
                piece = await trio.to_thread.run_sync(file.read, min(size, length))
                if not piece:
                    raise InvalidParameter(f"--ova {self._path}: {name} is truncated")
                length -= len(piece)
                yield piece
