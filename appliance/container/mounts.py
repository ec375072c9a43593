"""What a create request mounts into a container: Binds, Mounts, VolumesFrom, Tmpfs, as one list. Pure.

Texts are those of moby's volume/mounts.
"""

import os.path
import re
from typing import Any

import msgspec

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


def parse_mount(given: dict[str, Any]) -> MountRecord:
    """An element of Mounts. InvalidParameter in moby's words."""
    kind = given.get("Type") or ""
    if not isinstance(kind, str) or kind not in ("bind", "volume", "tmpfs"):
        raise InvalidParameter(f'invalid mount config for type "{kind}": mount type unknown: "{kind}"')
    before = f'invalid mount config for type "{kind}": '
    target, source = given.get("Target") or "", given.get("Source") or ""
    if not isinstance(target, str) or not isinstance(source, str):
        raise InvalidParameter(f"{before}Source and Target are strings")
    if not target:
        raise InvalidParameter(f"{before}field Target must not be empty")
    if not target.startswith("/"):
        raise InvalidParameter(f"{before}invalid mount target: {target}: mount path must be absolute")
    record = MountRecord(kind, clean(target), read_only=bool(given.get("ReadOnly")))
    _check_destination(record.destination, before)
    for other in ("bind", "volume", "tmpfs"):
        if other != kind and given.get(f"{other.capitalize()}Options"):
            raise InvalidParameter(f"{before}field {other.capitalize()}Options must not be specified")
    options = given.get(f"{kind.capitalize()}Options") or {}
    if not isinstance(options, dict):
        raise InvalidParameter(f"{before}options are no object")
    if kind == "bind":
        _take_bind(record, source, options, before)
    elif kind == "volume":
        _take_volume(record, source, options, before)
    else:
        if source:
            raise InvalidParameter(f"{before}field Source must not be specified")
        size, mode = options.get("SizeBytes") or 0, options.get("Mode") or 0o1777
        if not isinstance(size, int) or not isinstance(mode, int) or size < 0:
            raise InvalidParameter(f"{before}SizeBytes and Mode are numbers")
        record.options = {"mode": f"{mode:o}", **({"size": str(size)} if size else {})}
        for option in options.get("Options") or ():
            record.options[str(option[0])] = str(option[1]) if len(option) > 1 else ""
    return record


def _take_bind(record: MountRecord, source: str, options: dict[str, Any], before: str) -> None:
    if not source:
        raise InvalidParameter(f"{before}field Source must not be empty")
    if not source.startswith("/"):
        raise InvalidParameter(f"{before}invalid mount path: '{source}' mount path must be absolute")
    record.source = clean(source)
    record.propagation = str(options.get("Propagation") or "rprivate")
    if record.propagation not in _PROPAGATIONS:
        raise InvalidParameter(f"{before}invalid propagation mode: {record.propagation}")
    record.create = bool(options.get("CreateMountpoint"))


def _take_volume(record: MountRecord, source: str, options: dict[str, Any], before: str) -> None:
    record.name, record.anonymous = source, not source
    record.no_copy = bool(options.get("NoCopy"))
    record.subpath = str(options.get("Subpath") or "")
    if record.subpath.startswith("/") or ".." in record.subpath.split("/"):
        raise InvalidParameter(f"{before}subpath must be a relative path within the volume")
    if record.subpath and not source:
        raise InvalidParameter(f"{before}must not set Subpath when using anonymous volumes")
    driver = options.get("DriverConfig") or {}
    if driver.get("Name") not in (None, "", "local"):
        raise InvalidParameter(
            f'{before}error looking up volume plugin {driver["Name"]}: plugin "{driver["Name"]}" not found'
        )
    for key, given in (("labels", options.get("Labels")), ("options", driver.get("Options"))):
        if given and not (isinstance(given, dict) and all(isinstance(value, str) for value in given.values())):
            raise InvalidParameter(f"{before}{key} are a map of strings")
        setattr(record, key, dict(given or {}))


def parse_volumes_from(text: str) -> tuple[str, bool | None]:
    """(container, whether it is read-only, or None: as there) of an element of VolumesFrom."""
    name, _, mode = text.partition(":")
    if not name:
        raise InvalidParameter(f"malformed volumes-from specification: {text}")
    if mode not in ("", "ro", "rw", "z", "Z"):
        raise InvalidParameter(f"invalid mode for volumes-from: {mode}")
    return name, {"ro": True, "rw": False}.get(mode)


def check_mounts(host: dict[str, Any]) -> list[str]:
    """Hold a HostConfig's mounts against each other; the warnings. InvalidParameter in moby's words."""
    records = [parse_bind(text) for text in host.get("Binds") or ()]
    for given in host.get("Mounts") or ():
        if not isinstance(given, dict):
            raise InvalidParameter("invalid JSON: Mounts is a list of objects")
        records.append(parse_mount(given))
    for text in host.get("VolumesFrom") or ():
        parse_volumes_from(text)
    seen: set[str] = set()
    for destination in (*(record.destination for record in records), *map(clean, host.get("Tmpfs") or ())):
        if destination in seen:
            raise InvalidParameter(f"Duplicate mount point: {destination}")
        seen.add(destination)
    for target in host.get("Tmpfs") or ():
        _check_destination(clean(target), f"invalid tmpfs mount '{target}': ")
    return [
        f"propagation {record.propagation} of {record.destination} was discarded: what the host mounts later is not seen in a machine"
        for record in records
        if record.propagation not in ("", "private", "rprivate")
    ]
