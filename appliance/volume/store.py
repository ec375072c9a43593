"""The volumes of this host, on its disk: `NAME/_data`, a directory, or `NAME/disk.ext4`.

A directory is shared: any number of running containers see the same files, and so do the host's programs, as Docker's users are
used to. It is served by virtiofs, which knows no quota; a volume with a size is a thin disk instead, of one machine at a time.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import trio

from appliance.container.logconfig import parse_size
from appliance.errors import InvalidParameter, Unavailable

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
DIRECTORY, DISK, BIND, TMPFS, NFS = "directory", "disk", "bind", "tmpfs", "nfs"
# A disk is this large where volumes cannot be directories and nobody says how large.
_DISK_BYTES = 10 << 30
_LEAST_DISK = 8 << 20
_MAKE = (
    "mke2fs",
    "-q",
    "-F",
    "-t",
    "ext4",
    "-O",
    "^resize_inode",
    "-m",
    "0",
    "-E",
    "lazy_itable_init=1,lazy_journal_init=1",
)


class VolumeRecord(msgspec.Struct):
    """One volume. `created` unix ns; `kind` says what it is made of; `device` the path or options of a bind or tmpfs."""

    name: str
    created: int
    kind: str
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False
    size: int = 0
    device: str = ""
    flags: str = ""


class VolumeStore:
    """`shared` says whether volumes can be directories that machines share."""

    def __init__(self, root: Path, *, shared: bool) -> None:
        self._root = root / "volumes"
        self._root.mkdir(exist_ok=True, mode=0o701)
        self.shared = shared

    def shape(self, record: VolumeRecord) -> None:
        """Decide by its options what a volume is made of. InvalidParameter in Docker's words for options that cannot be."""
        if not NAME.fullmatch(record.name) or len(record.name) > 255:
            raise InvalidParameter(
                f'create {record.name}: "{record.name}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
        options = record.options
        unknown = set(options) - {"type", "device", "o", "size"}
        if unknown:
            raise InvalidParameter(f'create {record.name}: invalid option: "{sorted(unknown)[0]}"')
        kind = options.get("type", "")
        flags = options.get("o", "").split(",") if options.get("o") else []
        size = options.get("size") or next(
            (flag[5:] for flag in flags if flag.startswith("size=") and kind != "tmpfs"), ""
        )
        if kind == "tmpfs":
            record.kind, record.flags = TMPFS, options.get("o", "")
        elif kind in ("none", "bind", "") and options.get("device"):
            if not {"bind", "rbind"} & set(flags):
                raise InvalidParameter(f"create {record.name}: a device needs o=bind, or type=tmpfs")
            if not options["device"].startswith("/"):
                raise InvalidParameter(f"create {record.name}: device {options['device']} is no absolute path")
            if not self.shared:
                raise InvalidParameter(f"create {record.name}: a path of the host cannot be shared with machines here")
            record.kind, record.device, record.flags = BIND, options["device"], options.get("o", "")
        elif kind in ("nfs", "nfs4"):
            self._shape_nfs(record, flags)
        elif kind:
            raise InvalidParameter(
                f"create {record.name}: type={kind} is not supported: nfs, tmpfs, or none with o=bind"
            )
        elif flags and not size:
            raise InvalidParameter(f"create {record.name}: missing device in volume options")
        elif size or not self.shared:
            record.kind, record.size = DISK, parse_size(size) if size else _DISK_BYTES
            if record.size < _LEAST_DISK:
                raise InvalidParameter(f"create {record.name}: invalid size: '{size}': at least 8 MiB")
        else:
            record.kind = DIRECTORY

    @staticmethod
    def _shape_nfs(record: VolumeRecord, flags: list[str]) -> None:
        host, _, path = record.options.get("device", "").rpartition(":")
        named = [flag[5:] for flag in flags if flag.startswith("addr=")]
        server = (named or [host])[0].strip("[]")
        if not path.startswith("/") or not server:
            raise InvalidParameter(f"create {record.name}: an NFS volume needs device=:/path and o=addr=SERVER")
        versions = [flag.partition("=")[2] for flag in flags if flag.startswith(("nfsvers=", "vers="))]
        if any(not version.startswith("4") for version in versions):
            raise InvalidParameter(f"create {record.name}: NFS version {versions[0]} is not supported: 4 and later")
        rest = [flag for flag in flags if not flag.startswith(("addr=", "nfsvers=", "vers=", "clientaddr="))]
        record.kind, record.device = NFS, f"{server}:{path}"
        record.flags = ",".join([f"vers={versions[0] if versions else '4.2'}", *rest])

    def folder(self, record: VolumeRecord) -> Path:
        return self._root / record.name

    def data(self, record: VolumeRecord) -> Path:
        """What Docker calls its mount point."""
        return self.folder(record) / "_data"

    def disk(self, record: VolumeRecord) -> Path:
        return self.folder(record) / "disk.ext4"

    async def make(self, record: VolumeRecord) -> None:
        """Make what it is made of. Unavailable when the host's disk is full."""
        folder = self.folder(record)
        try:
            folder.mkdir(exist_ok=True, mode=0o701)
            if record.kind == DIRECTORY:
                self.data(record).mkdir(exist_ok=True)
                # What a container finds there, whose processes need not be root's.
                self.data(record).chmod(0o755)
            elif record.kind == DISK:
                await self._make_disk(record)
        except OSError as error:
            self.remove(record)
            raise Unavailable(f"create {record.name}: {error}") from error

    async def _make_disk(self, record: VolumeRecord) -> None:
        partial = self.disk(record).with_suffix(".part")
        with open(partial, "wb") as file:
            file.truncate(record.size)
        try:
            await trio.run_process([*_MAKE, str(partial)], capture_stdout=True, capture_stderr=True)
        except subprocess.CalledProcessError as error:
            raise Unavailable(f"create {record.name}: {error.stderr.decode('utf-8', 'replace').strip()}") from error
        partial.rename(self.disk(record))

    def remove(self, record: VolumeRecord) -> None:
        """Blocking."""
        shutil.rmtree(self.folder(record), ignore_errors=True)

    def tidy(self, known: set[str]) -> None:
        """Remove what belongs to no volume: half made, or half removed. Blocking."""
        for folder in self._root.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def used(self, record: VolumeRecord) -> int:
        """Bytes that it takes, -1 for what is not here. Blocking."""
        if record.kind in (BIND, TMPFS, NFS):
            return -1
        total = 0
        for folder, _, names in os.walk(self.folder(record), onerror=lambda _: None):
            for name in names:
                try:
                    total += os.lstat(os.path.join(folder, name)).st_blocks * 512
                except OSError:
                    continue
        return total
