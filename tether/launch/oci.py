"""The OCI runtime spec (config.json, runtime-spec 1.0.2): the one definition for both ends.

`appliance/container/spec.py` fills these types and sends them as JSON. `tether/launch/spec.py` reads that JSON again. The
types hold the members that vch honours; `decode_untrusted` ignores all other members. A member that is None is absent from
the JSON. The JSON name of a member is its name here in camel case (`masked_paths` is `maskedPaths`).

Two members of `User` differ from OCI: `username` (Windows only in OCI) holds Docker's "name[:group]", and
`additional_groups` holds names of groups. Only the guest can look them up, in the container's own /etc/passwd and
/etc/group. `guest_devices` of `Linux` is not in OCI: all device nodes of the guest, which only the guest knows.

These are NamedTuples because the guest defines them at each boot: a frozen dataclass takes eight times as long to define.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from types import NoneType, UnionType
from typing import NamedTuple, TypeVar, cast, get_args, get_origin

VERSION = "1.0.2"


class User(NamedTuple):
    uid: int = 0
    gid: int = 0
    # "name|uid[:group|gid]" as Docker's `User`; not empty: the guest looks it up, and `uid` and `gid` do not count.
    username: str = ""
    additional_gids: tuple[int, ...] = ()
    additional_groups: tuple[str, ...] = ()
    umask: int | None = None


class Capabilities(NamedTuple):
    """Names such as "CAP_CHOWN", for each of the five sets of capabilities(7)."""

    bounding: tuple[str, ...] | None = None
    effective: tuple[str, ...] | None = None
    permitted: tuple[str, ...] | None = None
    inheritable: tuple[str, ...] | None = None
    ambient: tuple[str, ...] | None = None


class Rlimit(NamedTuple):
    """`type` is a name of getrlimit(2), "RLIMIT_NOFILE". A negative limit, or one from 2**63 on, means no limit."""

    type: str
    soft: int
    hard: int


class Process(NamedTuple):
    terminal: bool = False
    user: User = User()
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    capabilities: Capabilities = Capabilities()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None


class Root(NamedTuple):
    path: str = "/"
    readonly: bool = False


class Mount(NamedTuple):
    """`options` are fstab's: mount flags, propagation, and data of the file system."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()


class Namespace(NamedTuple):
    """`type` is one of "pid", "mount", "uts", "ipc", "cgroup", "network". The namespace is always a new one."""

    type: str


class Device(NamedTuple):
    """`type` is "c", "u" (both character), "b" (block) or "p" (FIFO)."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int = 0o666
    uid: int = 0
    gid: int = 0


class Memory(NamedTuple):
    """Bytes; -1 is no limit. `swap` is memory and swap together."""

    limit: int | None = None
    swap: int | None = None
    reservation: int | None = None


class Cpu(NamedTuple):
    """`shares` as in cgroup v1 (2 to 262144), `quota` and `period` in microseconds, `cpus` and `mems` such as "0-2,4"."""

    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    cpus: str | None = None
    mems: str | None = None


class Pids(NamedTuple):
    """The number of tasks; 0 and less is no limit."""

    limit: int


class Resources(NamedTuple):
    """Limits of the cgroup. Also the body of Process.Update in process.proto, where an absent member stays as it is."""

    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids: Pids | None = None


class SyscallArgument(NamedTuple):
    """A comparison such as "SCMP_CMP_MASKED_EQ"; `value_two` is the second operand of that one alone."""

    # OCI's name; it hides tuple.index, which has no use here.
    index: int  # type: ignore[assignment]
    value: int
    value_two: int | None = None
    op: str = ""


class SyscallRule(NamedTuple):
    """`action` is "SCMP_ACT_...", for the system calls `names` when all of `args` hold."""

    action: str
    errno_ret: int | None = None
    args: tuple[SyscallArgument, ...] | None = None
    names: tuple[str, ...] = ()


class Seccomp(NamedTuple):
    default_action: str
    architectures: tuple[str, ...] = ()
    syscalls: tuple[SyscallRule, ...] = ()
    default_errno_ret: int | None = None


class Linux(NamedTuple):
    namespaces: tuple[Namespace, ...] = ()
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    sysctl: Mapping[str, str] = {}
    resources: Resources = Resources()
    seccomp: Seccomp | None = None
    devices: tuple[Device, ...] | None = None
    guest_devices: bool | None = None


class Spec(NamedTuple):
    """The whole config.json. An exec has `oci_version` and `process` alone."""

    oci_version: str
    process: Process
    root: Root | None = None
    hostname: str | None = None
    domainname: str | None = None
    mounts: tuple[Mount, ...] | None = None
    linux: Linux | None = None


class SpecError(ValueError):
    """The JSON is malformed, or the spec asks for what is not supported. The text names the member."""


# -- to JSON ------------------------------------------------------------------------------------------------------------


def encode(value: Spec | Resources) -> bytes:
    """Return the JSON of a spec, or of a part."""
    return json.dumps(_plain(value)).encode()


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        names: tuple[str, ...] | None = getattr(value, "_fields", None)
        if names is None:
            return [_plain(item) for item in value]
        return {
            _json_name(name): _plain(member) for name, member in zip(names, value, strict=True) if member is not None
        }
    return value


@cache
def _json_name(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


# -- from JSON ----------------------------------------------------------------------------------------------------------

_T = TypeVar("_T")
_Reader = Callable[[object], object]


def decode_untrusted(kind: type[_T], data: bytes) -> _T:
    """Read the JSON of `kind`, one of the types above. Raises SpecError only."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"malformed JSON: {error}") from error
    return cast(_T, _reader(cast(type, kind))(value))


@cache
def _reader(kind: type) -> _Reader:
    """A function that checks a JSON value and converts it to `kind`. It raises SpecError."""
    if isinstance(kind, UnionType):
        (kind,) = (part for part in get_args(kind) if part is not NoneType)
        return _reader(kind)
    if get_origin(kind) is tuple:
        return _list_reader(_reader(get_args(kind)[0]))
    if get_origin(kind) is Mapping:
        return _read_strings_by_name
    if hasattr(kind, "_fields"):
        return _object_reader(kind)
    if kind is str:
        return _read_string
    return _scalar_reader(kind)


def _read_string(value: object) -> str:
    if not isinstance(value, str):
        raise SpecError("not a string")
    if "\0" in value:
        raise SpecError("a string with a NUL")
    return value


def _read_strings_by_name(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise SpecError("not an object")
    return {_read_string(name): _read_string(member) for name, member in value.items()}


def _scalar_reader(kind: type) -> _Reader:
    def read(value: object) -> object:
        # bool is a subclass of int, and neither stands for the other.
        if type(value) is not kind:
            raise SpecError(f"not of type {kind.__name__}")
        return value

    return read


def _list_reader(read_item: _Reader) -> _Reader:
    def read(value: object) -> tuple[object, ...]:
        if not isinstance(value, list):
            raise SpecError("not a list")
        return tuple([read_item(item) for item in value])

    return read


def _object_reader(kind: type) -> _Reader:
    members = {_json_name(name): (name, _reader(of)) for name, of in kind.__annotations__.items()}

    def read(value: object) -> object:
        if not isinstance(value, dict):
            raise SpecError("not an object")
        found: dict[str, object] = {}
        for json_name, member in value.items():
            if json_name not in members or member is None:
                continue
            name, read_member = members[json_name]
            try:
                found[name] = read_member(member)
            except SpecError as error:
                raise SpecError(f"{json_name}: {error}") from error
        try:
            return kind(**found)
        except TypeError as error:
            raise SpecError(f"a member of {kind.__name__} is missing") from error

    return read


# Made at import: a child that is forked ahead of its container finds them ready.
_reader(Spec)
_reader(Resources)
