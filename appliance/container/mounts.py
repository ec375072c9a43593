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

# The kinds of words in a mode, and the words of each: moby allows one word of a kind.
_PROPAGATIONS = frozenset(("private", "rprivate", "slave", "rslave", "shared", "rshared"))
_READ_WRITE = frozenset(("ro", "rw"))
_LABELS = frozenset(("z", "Z"))
_CONSISTENCIES = frozenset(("consistent", "cached", "delegated"))
_COPY_MODES = frozenset(("nocopy",))
_MODE_KINDS = (_READ_WRITE, _LABELS, _PROPAGATIONS, _COPY_MODES, _CONSISTENCIES)
# The options of a tmpfs in Mounts, as in moby's validTmpfsOptions.
_TMPFS_OPTIONS = frozenset(("exec", "noexec"))
VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")


class MountRecord(msgspec.Struct):
    """One mount. `type` is bind, volume or tmpfs; `source` a path of the host; `mode` as the client wrote it.

    `create` makes a missing source of a bind; `subpath` is a part of a volume; `options` those of a new volume or a tmpfs;
    `consistency` is consistent, cached, delegated or "", which leaves it to us; `recursive`: with the mounts below the source.
    `relay`: the source was a unix socket when the container last started, so connections to the destination are relayed to it.
    `api`: connections to the destination reach the daemon's own API, whatever the source is.
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
    consistency: str = ""
    recursive: bool = True
    relay: bool = False
    api: bool = False


def clean(path: str) -> str:
    return os.path.normpath("/" + path.lstrip("/")) if path.startswith("/") else path


def parse_mode(mode: str) -> frozenset[str] | None:
    """The words of a mode such as `ro,z`; None if a word is unknown, or if two words are of one kind."""
    words = mode.split(",") if mode else []
    kinds = [next((kind for kind in _MODE_KINDS if word in kind), None) for word in words]
    if None in kinds or len(set(kinds)) < len(kinds):
        return None
    return frozenset(words)


def parse_bind(text: str) -> MountRecord:
    """An element of Binds: [source:]destination, or source:destination:mode. InvalidParameter in moby's words."""
    parts = text.split(":", 3)
    if not parts[0] or len(parts) > 3 or (len(parts) == 2 and parse_mode(parts[1]) is not None):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    source, destination, mode = ("", parts[0], "") if len(parts) == 1 else (parts[0], parts[1], "".join(parts[2:]))
    words = parse_mode(mode)
    if words is None:
        raise InvalidParameter(f"invalid mode: {mode}")
    kind = "bind" if source.startswith("/") else "volume"
    consistency = next(iter(words & _CONSISTENCIES), "")
    before = f"invalid volume specification: '{text}': invalid mount config for type \"{kind}\": "
    for other, field, foreign in (("volume", "VolumeOptions", _COPY_MODES), ("bind", "BindOptions", _PROPAGATIONS)):
        if kind != other and words & foreign:
            raise InvalidParameter(f"{before}field {field} must not be specified")
    _check_destination(destination, before)
    record = MountRecord(
        kind,
        clean(destination),
        mode=mode,
        read_only="ro" in words,
        no_copy="nocopy" in words,
        consistency=consistency,
    )
    if kind == "bind":
        record.source, record.create = clean(source), True
        record.propagation = next(iter(words & _PROPAGATIONS), "rprivate")
    else:
        record.name, record.anonymous = source, not source
        if source:
            check_volume_name(source)
    return record


def check_volume_name(name: str) -> None:
    """InvalidParameter in the words of moby's volume driver `local`. A name longer than 255 bytes cannot be a directory."""
    if len(name) == 1:
        raise InvalidParameter(
            f"create {name}: volume name is too short, names should be at least two alphanumeric characters"
        )
    if not VOLUME_NAME.fullmatch(name) or len(name) > 255:
        raise InvalidParameter(
            f'create {name}: "{name}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def _check_destination(destination: str, before: str) -> None:
    if not destination:
        raise InvalidParameter(f"{before}field Target must not be empty")
    if os.path.normpath(destination) in ("/", "//"):
        raise InvalidParameter(f"{before}invalid specification: destination can't be '/'")
    _check_absolute(destination, before)


def _check_absolute(path: str, before: str) -> None:
    if not path.startswith("/"):
        raise InvalidParameter(f"{before}invalid mount path: '{path}' mount path must be absolute")


def parse_mount(given: Mount) -> MountRecord:
    """An element of Mounts. InvalidParameter in moby's words."""
    kind, target, source = given.type or "", given.target or "", given.source or ""
    before = f'invalid mount config for type "{kind}": '
    bind, volume, tmpfs = given.bind_options or None, given.volume_options or None, given.tmpfs_options or None
    for other, name, options in (
        ("bind", "BindOptions", bind),
        ("volume", "VolumeOptions", volume),
        ("tmpfs", "TmpfsOptions", tmpfs),
    ):
        if other != kind and options is not None:
            raise InvalidParameter(f"{before}field {name} must not be specified")
    _check_destination(target, before)
    if kind not in ("bind", "volume", "tmpfs"):
        raise InvalidParameter(f"{before}mount type unknown")
    consistency = given.consistency or ""
    if consistency not in _CONSISTENCIES | {"", "default"}:
        raise InvalidParameter(f"{before}invalid consistency: {consistency}")
    record = MountRecord(
        kind, clean(target), read_only=bool(given.read_only), consistency=consistency.removeprefix("default")
    )
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
    record.propagation = options.propagation or "rprivate"
    if record.propagation not in _PROPAGATIONS:
        raise InvalidParameter(f"{before}invalid propagation mode: {record.propagation}")
    _check_absolute(source, before)
    record.source = clean(source)
    record.create = bool(options.create_mountpoint)
    record.recursive = not options.non_recursive
    for name, chosen in (
        ("ReadOnlyNonRecursive", options.read_only_non_recursive),
        ("ReadOnlyForceRecursive", options.read_only_force_recursive),
    ):
        if chosen and not record.read_only:
            raise InvalidParameter(f"mount options conflict: !ReadOnly && BindOptions.{name}")
    if options.read_only_non_recursive:
        raise InvalidParameter(f"{before}ReadOnlyNonRecursive is not supported: mounts below it are read-only too")


def _take_volume(record: MountRecord, source: str, options: VolumeOptions, before: str) -> None:
    record.name, record.anonymous = source, not source
    record.no_copy = bool(options.no_copy)
    if options.subpath:
        if not source:
            raise InvalidParameter(f"{before}must not set Subpath when using anonymous volumes")
        record.subpath = os.path.normpath(options.subpath)
        if record.subpath.startswith("/") or record.subpath.split("/")[0] == "..":
            raise InvalidParameter(f"{before}subpath must be a relative path within the volume")
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
    for option in options.options or ():
        if not 1 <= len(option) <= 2:
            raise InvalidParameter(f"{before}invalid option array length")
        if option[0] not in _TMPFS_OPTIONS:
            raise InvalidParameter(f"{before}invalid option: {option[0]}")
        record.options[option[0]] = option[1] if len(option) > 1 else ""


def parse_volumes_from(text: str) -> tuple[str, bool]:
    """(container, whether all its mounts become read-only) of an element of VolumesFrom: container[:mode]."""
    if not text:
        raise InvalidParameter("volumes-from specification cannot be an empty string")
    name, _, mode = text.partition(":")
    words = parse_mode(mode)
    if words is None or words & (_PROPAGATIONS | _COPY_MODES):
        raise InvalidParameter(f"invalid mode: {mode}")
    return name, "ro" in words


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
