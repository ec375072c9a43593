"""The names that images have at the door, the registry of vchd that only buildkitd reaches.

`vch.internal:PORT/docker.io/library/busybox:1` is the local image docker.io/library/busybox:1, and `vch.internal:PORT/build/ID:latest` is
what the build with the upload ID pushes. The path of a reference has no colon: `localhost:5000/x` is `vch.internal:PORT/localhost_5000/x`.
"""

import re
from collections.abc import Callable

DOOR_HOST = "vch.internal"
# A host name never has an underscore.
_PORT_MARK = "_"
# The first component of a repository at the door: a registry's host, perhaps with a port.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(rf"({_COMPONENT})(?::([0-9]+))?")
_ENCODED = re.compile(rf"({_COMPONENT})(?:{_PORT_MARK}([0-9]+))?")
_SHOWN = re.compile(
    rf"(?<!https://){re.escape(DOOR_HOST)}:[0-9]{{1,5}}/(?:(build/[0-9a-z]+:latest)|({_COMPONENT}){_PORT_MARK}([0-9]+)(?=/)|)"
)
_MARK = f"{DOOR_HOST}:".encode()


def local_name(door: str, registry: str, rest: str) -> str | None:
    """The name at the door of the local image `registry/rest`; None when the door has no name for it: a host with capitals, or in brackets.

    `door` is "vch.internal:PORT", `rest` a path with a tag or a digest.
    """
    match = _REGISTRY.fullmatch(registry)
    if match is None:
        return None
    return f"{door}/{match[1]}{_PORT_MARK + match[2] if match[2] else ''}/{rest}"


def repository_of(path: str) -> str | None:
    """The full name of the repository that a path at the door means: localhost_5000/x is localhost:5000/x. None if it means none."""
    first, slash, rest = path.partition("/")
    match = _ENCODED.fullmatch(first)
    if match is None or not slash or not rest:
        return None
    return f"{match[1]}{':' + match[2] if match[2] else ''}/{rest}"


def upload_name(door: str, upload: str) -> str:
    """The name under which buildkitd pushes the result of the build with this upload."""
    return f"{door}/build/{upload}:latest"


def is_door(reference: str) -> bool:
    """Whether a reference, or a source's identifier, has the door as its registry."""
    name = reference.partition("://")[2] or reference
    host = name.partition("/")[0].partition(":")[0]
    return host.lower() == DOOR_HOST


def names_door(data: bytes) -> bool:
    """Whether a message may contain names of the door: a quick look at its bytes."""
    return _MARK in data


def cut_names(text: str, result: str = "") -> str:
    """A text with the users' names of images instead of the door's. `result` replaces the name under which a build pushes its image."""

    def shown(match: re.Match[str]) -> str:
        if match[1]:
            return result or "image"
        return f"{match[2]}:{match[3]}" if match[2] else ""

    return _SHOWN.sub(shown, text)


def cut_names_in(data: bytes, cut: Callable[[str], str] = cut_names) -> bytes:
    """The same for bytes of a log, which need not be UTF-8."""
    return cut(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
