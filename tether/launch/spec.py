"""The parts of an OCI runtime spec (config.json, runtime-spec 1.0.2) that are honoured here.

One addition: `process.user.username` (in OCI Windows' only) holds Docker's "name[:group]", which only the guest can look up.
"""

import json
from dataclasses import dataclass, field
from typing import Any


class SpecError(ValueError):
    """The spec is malformed or asks for what is not supported; the text names the field."""


@dataclass(frozen=True, slots=True)
class User:
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    # By name, looked up in the container; ours, as `username` is.
    group_names: tuple[str, ...] = ()
    umask: int | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class MountPoint:
    destination: str
    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Device:
    path: str
    type: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Spec:
    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    terminal: bool
    user: User
    capabilities: dict[str, tuple[str, ...]]
    rlimits: tuple[tuple[str, int, int], ...]
    no_new_privileges: bool
    oom_score_adj: int | None
    root: str
    root_readonly: bool
    hostname: str
    domainname: str
    mounts: tuple[MountPoint, ...]
    devices: tuple[Device, ...]
    namespaces: frozenset[str]
    masked_paths: tuple[str, ...]
    readonly_paths: tuple[str, ...]
    sysctl: dict[str, str]
    resources: dict[str, Any] = field(default_factory=dict)
    seccomp: dict[str, Any] | None = None
    raw: bytes = b""


_NAMESPACES = frozenset(("pid", "mount", "uts", "ipc", "cgroup", "network"))


def parse_spec_untrusted(data: bytes) -> Spec:
    """Parse config.json. Raises SpecError only."""
    try:
        return _parse(json.loads(data), data)
    except SpecError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise SpecError(f"malformed OCI spec: {type(error).__name__}: {error}") from error


def _parse(top: dict[str, Any], raw: bytes) -> Spec:
    process = top["process"]
    linux = top.get("linux") or {}
    user = process.get("user") or {}
    args = _strings(process.get("args"), "process.args")
    if not args:
        raise SpecError("process.args is empty")
    cwd = process.get("cwd") or "/"
    if not cwd.startswith("/"):
        raise SpecError("process.cwd is not absolute")
    namespaces = frozenset(entry["type"] for entry in linux.get("namespaces") or ())
    if unknown := namespaces - _NAMESPACES:
        raise SpecError(f"linux.namespaces: {', '.join(sorted(unknown))} not supported")
    capabilities = {
        name: _strings(value, "capabilities") for name, value in (process.get("capabilities") or {}).items()
    }
    return Spec(
        args=args,
        env=_strings(process.get("env"), "process.env"),
        cwd=cwd,
        terminal=bool(process.get("terminal")),
        user=User(
            int(user.get("uid", 0)),
            int(user.get("gid", 0)),
            tuple(int(g) for g in user.get("additionalGids") or ()),
            _strings(user.get("additionalGroups"), "additionalGroups"),
            user.get("umask"),
            user.get("username") or "",
        ),
        capabilities=capabilities,
        rlimits=tuple((r["type"], int(r["soft"]), int(r["hard"])) for r in process.get("rlimits") or ()),
        no_new_privileges=bool(process.get("noNewPrivileges")),
        oom_score_adj=process.get("oomScoreAdj"),
        root=(top.get("root") or {}).get("path") or "/",
        root_readonly=bool((top.get("root") or {}).get("readonly")),
        hostname=top.get("hostname") or "",
        domainname=top.get("domainname") or "",
        mounts=tuple(
            MountPoint(
                m["destination"], m.get("type") or "", m.get("source") or "", _strings(m.get("options"), "mounts")
            )
            for m in top.get("mounts") or ()
        ),
        devices=tuple(
            Device(
                d["path"],
                d["type"],
                int(d.get("major", 0)),
                int(d.get("minor", 0)),
                int(d.get("fileMode") or 0o666),
                int(d.get("uid") or 0),
                int(d.get("gid") or 0),
            )
            for d in linux.get("devices") or ()
        ),
        namespaces=namespaces,
        masked_paths=_strings(linux.get("maskedPaths"), "linux.maskedPaths"),
        readonly_paths=_strings(linux.get("readonlyPaths"), "linux.readonlyPaths"),
        sysctl=dict(linux.get("sysctl") or {}),
        resources=linux.get("resources") or {},
        seccomp=linux.get("seccomp"),
        raw=raw,
    )


def _strings(value: object, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) and "\0" not in item for item in value):
        raise SpecError(f"{name} is not a list of strings")
    return tuple(value)
