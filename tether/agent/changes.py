"""The differences between a container's disk and its image: `docker diff`, and the layer of `docker commit`.

The upper directory of an overlay (Documentation/filesystems/overlayfs.rst) is compared with the layers below. A file that the
kernel copied up but that is otherwise equal is no difference. Runs in a child whose root is the tether's state directory.
"""

import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from protos.tether.v1.filesystem_pb2 import Change
from tether.agent import init_layer
from tether.agent.pack import Packer

_UPPER = "/upper/upper"
_LAYERS = "/layers"
_INIT = f"/{init_layer.NAME}"
_OPAQUE = "trusted.overlay.opaque"
_CAPABILITY = "security.capability"
# Mount points that every container has: the tether makes them, not the container.
_MOUNT_POINTS = frozenset(
    (
        "/dev",
        "/proc",
        "/sys",
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/sbin/docker-init",
    )
)
_PARENTS = frozenset(("/etc", "/sbin"))


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` is a path of the container; `found` is None for a deleted file."""

    kind: "Change.Kind"
    path: str
    found: os.stat_result | None


def differences() -> list[Difference]:
    """Return the differences, sorted by path."""
    lower = [_INIT, *(f"{_LAYERS}/{name}" for name in sorted(os.listdir(_LAYERS), key=int, reverse=True))]
    return sorted(_compare("", lower, covers=False), key=lambda one: one.path)


def _compare(directory: str, lower: list[str], *, covers: bool) -> Iterator[Difference]:
    """Yield the differences below a directory of the upper disk; `lower` is that directory in each layer, highest first.

    `covers`: the upper directory hides the lower ones completely.
    """
    upper = f"{_UPPER}{directory}"
    covers = covers or _is_opaque(upper)
    names = os.listdir(upper)
    if covers:
        for name in _names(lower) - set(names):
            yield from _visible(Difference(Change.DELETED, f"{directory}/{name}", None))
    for name in names:
        path = f"{directory}/{name}"
        found = os.lstat(f"{upper}/{name}")
        before, inside = _look_up(lower, name)
        if _is_whiteout(found):
            if before is not None:
                yield from _visible(Difference(Change.DELETED, path, None))
            continue
        below = list(_compare(path, inside, covers=covers)) if stat.S_ISDIR(found.st_mode) else []
        if before is None:
            if below or path not in _PARENTS:
                yield from _visible(Difference(Change.ADDED, path, found))
        elif below or _differs(before, (found, f"{upper}/{name}")):
            yield from _visible(Difference(Change.MODIFIED, path, found))
        yield from below


def _visible(one: Difference) -> Iterator[Difference]:
    if one.path not in _MOUNT_POINTS:
        yield one


def _look_up(lower: list[str], name: str) -> tuple[tuple[os.stat_result, str] | None, list[str]]:
    """Return (stat and path of `name` in the merged lower directories; the directories that are merged when it is one)."""
    first: tuple[os.stat_result, str] | None = None
    inside: list[str] = []
    for directory in lower:
        path = f"{directory}/{name}"
        try:
            found = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if _is_whiteout(found):
            break
        is_directory = stat.S_ISDIR(found.st_mode)
        if first is None:
            first = (found, path)
        if not is_directory:
            break
        inside.append(path)
        if _is_opaque(path):
            break
    return first, inside


def _names(lower: list[str]) -> set[str]:
    """Return the names in the merged lower directories."""
    shown: set[str] = set()
    hidden: set[str] = set()
    for directory in lower:
        for name in os.listdir(directory):
            if name not in hidden and not _is_whiteout(os.lstat(f"{directory}/{name}")):
                shown.add(name)
            hidden.add(name)
    return shown


def _is_whiteout(found: os.stat_result) -> bool:
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


def _is_opaque(directory: str) -> bool:
    return _xattr(directory, _OPAQUE) == b"y"


def _xattr(path: str, name: str) -> bytes:
    try:
        return os.getxattr(path, name, follow_symlinks=False)
    except OSError:
        return b""


def _differs(before: tuple[os.stat_result, str], now: tuple[os.stat_result, str]) -> bool:
    """Compare as moby's pkg/archive does: times and sizes of directories do not count."""
    (old, old_path), (new, new_path) = before, now
    if (old.st_mode, old.st_uid, old.st_gid, old.st_rdev) != (new.st_mode, new.st_uid, new.st_gid, new.st_rdev):
        return True
    if not stat.S_ISDIR(old.st_mode) and (
        old.st_size != new.st_size or _differs_in_time(old.st_mtime_ns, new.st_mtime_ns)
    ):
        return True
    return _xattr(old_path, _CAPABILITY) != _xattr(new_path, _CAPABILITY)


def _differs_in_time(one: int, other: int) -> bool:
    """Whether two times differ. Archives store whole seconds, so a time without a fraction matches any fraction."""
    second = 1_000_000_000
    return one // second != other // second or (one != other and bool(one % second) and bool(other % second))


def pack_layer(out: int) -> None:
    """Write the differences as a layer (OCI image-spec, layer.md)."""
    packer = Packer(out)
    for one in differences():
        name = one.path.lstrip("/")
        if one.found is None:
            packer.add_empty(posixpath.join(posixpath.dirname(name), f".wh.{posixpath.basename(name)}"))
        else:
            packer.add(f"{_UPPER}{one.path}", name, one.found)
    packer.finish()
