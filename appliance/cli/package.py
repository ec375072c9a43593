"""An OVA as a file: descriptor, digests, disks (DSP0243, 5.1)."""

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
    """An OVA that is whole: every file in it has the digest that the manifest says."""

    def __init__(self, path: Path) -> None:
        """Read all of it once. InvalidParameter says what is wrong with it."""
        self._path = path
        self.descriptor = ""
        # Where a file begins, and how long it is.
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
                raise ValueError(f"there has to be one {suffix} in it, of {_MOST} bytes at most")
            place, length = self._members[names[0]]
            file.seek(place)
            return file.read(length).decode()

        self.descriptor = small(".ovf")
        expected = {}
        for line in filter(None, small(".mf").splitlines()):
            found = _DIGEST_LINE.fullmatch(line.strip())
            if found is None:
                raise ValueError(f"its manifest has a line {line!r}")
            expected[found[2]] = found[1], found[3].lower()
        for name, (place, length) in self._members.items():
            if name.endswith((".mf", ".cert")):
                continue
            if name not in expected:
                raise ValueError(f"its manifest has nothing about {name}")
            kind, digest = expected[name]
            summed = hashlib.new(_DIGESTS[kind])
            file.seek(place)
            while length:
                piece = file.read(min(length, _PIECE))
                if not piece:
                    raise ValueError(f"{name} ends early")
                summed.update(piece)
                length -= len(piece)
            if summed.hexdigest() != digest:
                raise ValueError(f"{name} is not what its manifest says")

    def length(self, name: str) -> int:
        """How many bytes a file has. InvalidParameter for one that is not there."""
        if name not in self._members:
            raise InvalidParameter(f"--ova {self._path}: {name} is not in it")
        return self._members[name][1]

    async def pieces(self, name: str, size: int) -> AsyncIterator[bytes]:
        """A file's bytes."""
        place, length = self._members[name]
        with self._path.open("rb") as file:
            file.seek(place)
            while length:
                piece = await trio.to_thread.run_sync(file.read, min(size, length))
                if not piece:
                    raise InvalidParameter(f"--ova {self._path}: {name} ends early")
                length -= len(piece)
                yield piece
