"""Every field of Config and HostConfig (API 1.22 to 1.51), its type and what becomes of it. FIELDS.md shows the same to people.

A field that is refused may hold what does nothing; one that is warned of is accepted, named in the answer, and has no effect.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from appliance.errors import InvalidParameter
from appliance.http import Request


class Decision(enum.Enum):
    HONOURED = "honoured"
    WARNED = "warned"
    REFUSED = "refused"


class Kind(enum.Enum):
    """The JSON of a field: a text, a list of texts, a map of texts..."""

    TEXT = "a string"
    FLAG = "a boolean"
    NUMBER = "a number"
    TEXTS = "a list of strings"
    COMMAND = "a string or a list of strings"
    TEXT_MAP = "a map of strings"
    MAP = "an object"
    LIST = "a list"


@dataclass(frozen=True, slots=True)
class Field:
    """`note` says how it is honoured, or why it is not. `harmless` are values that do nothing here."""

    kind: Kind
    decision: Decision
    note: str = ""
    harmless: tuple[Any, ...] = ()


def _honoured(kind: Kind, note: str = "") -> Field:
    return Field(kind, Decision.HONOURED, note)


def _warned(kind: Kind, note: str, *harmless: Any) -> Field:
    return Field(kind, Decision.WARNED, note, harmless)


def _refused(kind: Kind, note: str, *harmless: Any) -> Field:
    return Field(kind, Decision.REFUSED, note, harmless)


_T, _F, _N, _L, _M, _TM, _O = Kind.TEXT, Kind.FLAG, Kind.NUMBER, Kind.TEXTS, Kind.MAP, Kind.TEXT_MAP, Kind.LIST
_LATER = "comes with volumes and networks"
_WINDOWS = "for Windows only"

CONFIG: dict[str, Field] = {
    "Hostname": _honoured(_T, "of the guest too; at most 63 characters"),
    "Domainname": _honoured(_T),
    "User": _honoured(_T, "name, uid, group; looked up in the container"),
    "AttachStdin": _honoured(_F, "the client's to act on"),
    "AttachStdout": _honoured(_F, "the client's to act on"),
    "AttachStderr": _honoured(_F, "the client's to act on"),
    "ExposedPorts": _honoured(_M, "metadata"),
    "Tty": _honoured(_F),
    "OpenStdin": _honoured(_F),
    "StdinOnce": _honoured(_F),
    "Env": _honoured(_L),
    "Cmd": _honoured(Kind.COMMAND),
    "Healthcheck": _honoured(_M, "probes run as execs in the container"),
    "ArgsEscaped": _warned(_F, _WINDOWS),
    "Image": _honoured(_T),
    "Volumes": _honoured(_M, "anonymous volumes, unless a mount is there"),
    "WorkingDir": _honoured(_T, "made when it is missing"),
    "Entrypoint": _honoured(Kind.COMMAND),
    "NetworkDisabled": _honoured(_F),
    "MacAddress": _honoured(_T, "of the NIC on the network of NetworkMode"),
    "OnBuild": _honoured(_L, "metadata"),
    "Labels": _honoured(_TM),
    "StopSignal": _honoured(_T),
    "StopTimeout": _honoured(_N),
    "Shell": _honoured(_L, "metadata; for CMD-SHELL probes"),
    "PortSpecs": _warned(_L, "gone from Docker"),
    "PublishService": _warned(_T, "gone from Docker"),
    "VolumeDriver": _honoured(_T, "there is one, local; another one's volumes are not found"),
    "name": _honoured(_T, "the query's `name` counts"),
}

HOST: dict[str, Field] = {
    "Binds": _honoured(_L, "volumes, and paths of the host where it is a QEMU host; not its sockets and devices"),
    "ContainerIDFile": _honoured(_T, "the client's to act on"),
    "LogConfig": _honoured(_M, "json-file, local, syslog, none; see README"),
    "NetworkMode": _honoured(
        _T,
        "by name or id, none; host is bridge with each port published that is listened at; container:ID is refused",
    ),
    "PortBindings": _honoured(_M, "tcp and udp, ranges, addresses of the host"),
    "RestartPolicy": _honoured(_M),
    "AutoRemove": _honoured(_F),
    "VolumeDriver": _honoured(_T, "there is one, local; another one's volumes are not found"),
    "VolumesFrom": _honoured(_L),
    "Mounts": _honoured(_O, "of type bind, volume (with subpath), tmpfs"),
    "ConsoleSize": _honoured(_O),
    "Annotations": _honoured(_TM, "metadata"),
    "CapAdd": _honoured(_L),
    "CapDrop": _honoured(_L),
    "Capabilities": _refused(_L, "gone from Docker: CapAdd and CapDrop"),
    "CgroupnsMode": _honoured(_T, "private; host is the guest's"),
    "Dns": _honoured(_L),
    "DnsOptions": _honoured(_L),
    "DnsSearch": _honoured(_L),
    "ExtraHosts": _honoured(_L, "host-gateway is the appliance"),
    "GroupAdd": _honoured(_L, "by name or number; looked up in the container"),
    "IpcMode": _honoured(
        _T, "private, shareable, none; host is the guest's; container:ID is refused, another machine is another kernel"
    ),
    "Cgroup": _refused(_T, "gone from Docker"),
    "Links": _honoured(_L, "names and environment on the default network, aliases on others"),
    "OomScoreAdj": _honoured(_N),
    "PidMode": _honoured(_T, "host is the guest's; container:ID is refused, another machine is another kernel"),
    "Privileged": _honoured(_F, "all the guest has; it is the container's own machine"),
    "PublishAllPorts": _honoured(_F),
    "ReadonlyRootfs": _honoured(_F),
    "SecurityOpt": _honoured(
        _L, "no-new-privileges, seccomp (unconfined or a profile); apparmor and label only switched off"
    ),
    "StorageOpt": _refused(_TM, "every container has a thin disk of 10 GiB"),
    "Tmpfs": _honoured(_TM),
    "UTSMode": _honoured(_T, "host is the guest's"),
    "UsernsMode": _honoured(_T, "host: there is no other"),
    "ShmSize": _honoured(_N),
    "Sysctls": _honoured(_TM),
    "Runtime": _honoured(_T, "there is one, by any of its names"),
    "Isolation": _refused(_T, _WINDOWS, "default"),
    "MaskedPaths": _honoured(_L),
    "ReadonlyPaths": _honoured(_L),
    "CpuShares": _honoured(_N),
    "Memory": _honoured(_N, "the cgroup's limit; the machine is made large enough"),
    "CgroupParent": _warned(_T, "a machine has a cgroup hierarchy of its own"),
    "BlkioWeight": _warned(_N, "the guest's kernel has no block I/O weights"),
    "BlkioWeightDevice": _warned(_O, "a machine has disks of its own"),
    "BlkioDeviceReadBps": _warned(_O, "a machine has disks of its own"),
    "BlkioDeviceWriteBps": _warned(_O, "a machine has disks of its own"),
    "BlkioDeviceReadIOps": _warned(_O, "a machine has disks of its own"),
    "BlkioDeviceWriteIOps": _warned(_O, "a machine has disks of its own"),
    "CpuPeriod": _honoured(_N),
    "CpuQuota": _honoured(_N),
    "CpuRealtimePeriod": _refused(_N, "the guest's kernel does not offer it"),
    "CpuRealtimeRuntime": _refused(_N, "the guest's kernel does not offer it"),
    "CpusetCpus": _honoured(_T, "of the machine's CPUs"),
    "CpusetMems": _honoured(_T, "of the machine's memory nodes"),
    "Devices": _honoured(_O, "of the guest, by their path there"),
    "DeviceCgroupRules": _warned(_L, "a container may use all devices of its machine"),
    "DeviceRequests": _refused(_O, "no devices are passed through"),
    "KernelMemory": _warned(_N, "gone from Docker"),
    "KernelMemoryTCP": _warned(_N, "gone from Docker"),
    "MemoryReservation": _honoured(_N),
    "MemorySwap": _honoured(_N, "a guest has no swap: what is allowed is not used"),
    "MemorySwappiness": _warned(_N, "cgroup v2 does not offer it", -1),
    "NanoCpus": _honoured(_N, "the machine has enough CPUs"),
    "OomKillDisable": _warned(_F, "cgroup v2 does not offer it"),
    "Init": _honoured(_F, "tini"),
    "PidsLimit": _honoured(_N),
    "Ulimits": _honoured(_O),
    "CpuCount": _warned(_N, _WINDOWS),
    "CpuPercent": _warned(_N, _WINDOWS),
    "IOMaximumIOps": _warned(_N, _WINDOWS),
    "IOMaximumBandwidth": _warned(_N, _WINDOWS),
}


def _fits(kind: Kind, value: Any) -> bool:
    match kind:
        case Kind.TEXT:
            return isinstance(value, str) and "\0" not in value
        case Kind.FLAG:
            return isinstance(value, bool)
        case Kind.NUMBER:
            return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
        case Kind.TEXTS:
            return isinstance(value, list) and all(_fits(Kind.TEXT, item) for item in value)
        case Kind.COMMAND:
            return _fits(Kind.TEXT, value) or _fits(Kind.TEXTS, value)
        case Kind.TEXT_MAP:
            return isinstance(value, dict) and all(_fits(Kind.TEXT, item) for item in value.values())
        case Kind.MAP:
            return isinstance(value, dict)
        case Kind.LIST:
            return isinstance(value, list)


def fold_names(given: dict[str, Any], known: Iterable[str]) -> None:
    """Give fields the case of their known names, in place: Go takes them in any, and clients make use of it."""
    names = {name.lower(): name for name in known}
    for name in list(given):
        proper = names.get(name.lower(), name)
        if proper != name:
            value = given.pop(name)
            given.setdefault(proper, value)


async def read_object(request: Request, names: Iterable[str]) -> dict[str, Any]:
    """A body that is an object, its fields in the case of these names. InvalidParameter when it is something else."""
    body = await request.json()
    if not isinstance(body, dict):
        raise InvalidParameter("invalid JSON: no object")
    fold_names(body, names)
    return body


def text_map(body: dict[str, Any], key: str) -> dict[str, str]:
    """A member that maps texts to texts, {} when it is not there. InvalidParameter when it is something else."""
    value = body.get(key) or {}
    if not _fits(Kind.TEXT_MAP, value):
        raise InvalidParameter(f"invalid JSON: {key} is not {Kind.TEXT_MAP.value}")
    found: dict[str, str] = value
    return found


def check_fields(given: dict[str, Any], table: dict[str, Field]) -> list[str]:
    """Hold a request against a table; the warnings. InvalidParameter names the field that is malformed or refused."""
    fold_names(given, table)
    warnings = []
    for name, value in given.items():
        field = table.get(name)
        if field is None:
            if value:
                warnings.append(f"{name} is not known here and was ignored")
            continue
        if value is not None and not _fits(field.kind, value):
            raise InvalidParameter(f"invalid JSON: {name} is not {field.kind.value}")
        if not value or value in field.harmless:
            continue
        if field.decision is Decision.REFUSED:
            raise InvalidParameter(f"{name} is not supported: {field.note}")
        if field.decision is Decision.WARNED:
            warnings.append(f"{name} was discarded: {field.note}")
    return warnings
