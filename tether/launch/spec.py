"""An OCI runtime spec, read and checked for the launcher."""

from dataclasses import dataclass

from tether.launch import oci
from tether.launch.oci import SpecError

_NAMESPACES = frozenset(("pid", "mount", "uts", "ipc", "cgroup", "network"))


@dataclass(frozen=True, slots=True)
class Spec:
    """`raw` is the JSON that the other members were read from: a child that was forked ahead receives it."""

    raw: bytes
    process: oci.Process
    root: oci.Root
    hostname: str
    domainname: str
    mounts: tuple[oci.Mount, ...]
    linux: oci.Linux
    namespaces: frozenset[str]


def parse_spec_untrusted(data: bytes) -> Spec:
    """Parse config.json. Raises SpecError only."""
    spec = oci.decode_untrusted(oci.Spec, data)
    if not spec.process.args:
        raise SpecError("process.args is empty")
    if not spec.process.cwd.startswith("/"):
        raise SpecError("process.cwd is not absolute")
    linux = spec.linux or oci.Linux()
    namespaces = frozenset(namespace.type for namespace in linux.namespaces)
    if unknown := namespaces - _NAMESPACES:
        raise SpecError(f"linux.namespaces: {', '.join(sorted(unknown))} not supported")
    return Spec(
        data,
        spec.process,
        spec.root or oci.Root(),
        spec.hostname or "",
        spec.domainname or "",
        spec.mounts or (),
        linux,
        namespaces,
    )
