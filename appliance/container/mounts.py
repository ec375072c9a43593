"""The mounts of a create request: Binds, Mounts, VolumesFrom and Tmpfs as one list. Pure.

Texts are those of moby's volume/mounts.
"""

import os.path
import re

import msgspec
from msgspec import UNSET

from appliance.container.host_config import (
    BindOptions,
    HostConfig,
    Mount,
    TmpfsOptions,
    VolumeDriverConfig,
    VolumeOptions,
)
from appliance.errors import InvalidParameter

_PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
_CONSISTENCIES = frozenset(("consistent", "cached", "delegated", "default"))
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class MountRecord(msgspec.Struct):
    """One mount. `type` is bind, volume or tmpfs; `source` a path of the host; `mode` as the client wrote it.

    `create` makes a missing source of a bind; `subpath` is a part of a volume; `options` those of a new volume or a tmpfs.
    """

    type: str
    destination: str
    name: str = ""
    source: str = ""
    mode: str = ""
    read_only: bool = False
    propagation: str = ""
    no_copy: bool = False
    create: bool = False
    subpath: str = ""
    labels: dict[str, str] = {}
    options: dict[str, str] = {}
    anonymous: bool = False


def clean(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/")) if path.startswith("/") else path


def parse_bind(text: str) -> MountRecord:
    """An element of Binds: [source:]destination[:mode]. InvalidParameter in moby's words."""
    parts = text.split(":")
    if not text or len(parts) > 3 or not all(parts):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source, destination, mode = ("", parts[0], "") if len(parts) == 1 else (parts[0], parts[1], "".join(parts[2:]))
    if len(parts) == 2 and not destination.startswith("/"):
        # moby: destination and mode.
        source, destination, mode = "", parts[0], parts[1]
    record = MountRecord("bind" if source.startswith("/") else "volume", clean(destination), mode=mode)
    _check_destination(record.destination, f"invalid volume specification: '{text}': ")
    if record.type == "bind":
        record.source, record.create, record.propagation = clean(source), True, "rprivate"
    else:
        record.name, record.anonymous = source, not source
        if source and not _VOLUME_NAME.fullmatch(source):
            raise InvalidParameter(
                f'create {source}: "{source}" includes invalid characters for a local volume name, only '
                '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
            )
    for word in filter(None, mode.split(",")):
        if word in ("ro", "rw"):
            record.read_only = word == "ro"
        elif word == "nocopy" and record.type == "volume":
            record.no_copy = True
        elif word in _PROPAGATIONS and record.type == "bind":
            record.propagation = word
        elif word not in ("z", "Z") and word not in _CONSISTENCIES:
            raise InvalidParameter(f"invalid volume specification: '{text}': invalid mode: {mode}")
    return record


def _check_destination(destination: str, before: str) -> None:
    if not destination.startswith("/"):
        raise InvalidParameter(f"{before}invalid mount path: '{destination}' mount path must be absolute")
    if destination == "/":
        raise InvalidParameter(f"{before}invalid specification: destination can't be '/'")


def parse_mount(given: Mount) -> MountRecord:
    """An element of Mounts. InvalidParameter in moby's words."""
    kind, target, source = given.type or "", given.target or "", given.source or ""
    if kind not in ("bind", "volume", "tmpfs"):
        raise InvalidParameter(f'invalid mount config for type "{kind}": mount type unknown: "{kind}"')
    before = f'invalid mount config for type "{kind}": '
    if not target:
        raise InvalidParameter(f"{before}field Target must not be empty")
    if not target.startswith("/"):
        raise InvalidParameter(f"{before}invalid mount target: {target}: mount path must be absolute")
    record = MountRecord(kind, clean(target), read_only=bool(given.read_only))
    _check_destination(record.destination, before)
    bind, volume, tmpfs = given.bind_options, given.volume_options, given.tmpfs_options
    for other, name, options, empty in (
        ("bind", "BindOptions", bind, BindOptions()),
        ("volume", "VolumeOptions", volume, VolumeOptions()),
        ("tmpfs", "TmpfsOptions", tmpfs, TmpfsOptions()),
    ):
        if other != kind and options and options != empty:
            raise InvalidParameter(f"{before}field {name} must not be specified")
    if kind == "bind":
        _take_bind(record, source, bind or BindOptions(), before)
    elif kind == "volume":
        _take_volume(record, source, volume or VolumeOptions(), before)
    else:
        _take_tmpfs(record, source, tmpfs or TmpfsOptions(), before)
    return record


def _take_bind(record: MountRecord, source: str, options: BindOptions, before: str) -> None:
    if not source:
        raise InvalidParameter(f"{before}field Source must not be empty")
    if not source.startswith("/"):
        raise InvalidParameter(f"{before}invalid mount path: '{source}' mount path must be absolute")
    record.source = clean(source)
    record.propagation = options.propagation or "rprivate"
    if record.propagation not in _PROPAGATIONS:
        raise InvalidParameter(f"{before}invalid propagation mode: {record.propagation}")
    record.create = bool(options.create_mountpoint)


def _take_volume(record: MountRecord, source: str, options: VolumeOptions, before: str) -> None:
    record.name, record.anonymous = source, not source
    record.no_copy = bool(options.no_copy)
    record.subpath = options.subpath or ""
    if record.subpath.startswith("/") or ".." in record.subpath.split("/"):
        raise InvalidParameter(f"{before}subpath must be a relative path within the volume")
    if record.subpath and not source:
        raise InvalidParameter(f"{before}must not set Subpath when using anonymous volumes")
    driver = options.driver_config or VolumeDriverConfig()
    if driver.name not in (UNSET, "", "local"):
        raise InvalidParameter(
            f'{before}error looking up volume plugin {driver.name}: plugin "{driver.name}" not found'
        )
    record.labels = dict(options.labels or {})
    record.options = dict(driver.options or {})


def _take_tmpfs(record: MountRecord, source: str, options: TmpfsOptions, before: str) -> None:
    if source:
        raise InvalidParameter(f"{before}field Source must not be specified")
    size = options.size_bytes or 0
    if size < 0:
        raise InvalidParameter(f"{before}SizeBytes must not be negative")
    record.options = {"mode": f"{options.mode or 0o1777:o}", **({"size": str(size)} if size else {})}
    for option in filter(None, options.options or ()):
        record.options[option[0]] = option[1] if len(option) > 1 else ""


def parse_volumes_from(text: str) -> tuple[str, bool | None]:
    """(container, read-only) of an element of VolumesFrom; None for read-only means as in that container."""
    name, _, mode = text.partition(":")
    if not name:
        raise InvalidParameter(f"malformed volumes-from specification: {text}")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidParameter(f"invalid mode for volumes-from: {mode}")
    return name, {"ro": True, "rw": False}.get(mode)


def check_mounts(host_config: HostConfig) -> list[str]:
    """Check that a HostConfig's mounts do not contradict each other; return warnings. InvalidParameter in moby's words."""
    records = [parse_bind(text) for text in host_config.binds or ()]
    records += [parse_mount(given) for given in host_config.mounts or ()]
    for text in host_config.volumes_from or ():
        parse_volumes_from(text)
    seen: set[str] = set()
    for destination in (*(record.destination for record in records), *map(clean, host_config.tmpfs or ())):
        if destination in seen:
            raise InvalidParameter(f"Duplicate mount point: {destination}")
        seen.add(destination)
    for target in host_config.tmpfs or ():
        _check_destination(clean(target), f"invalid tmpfs mount '{target}': ")
    return [
        f"propagation {record.propagation} of {record.destination} was discarded: what the host mounts later is not seen in a machine"
        for record in records
        if record.propagation not in ("", "private", "rprivate")
    ]
