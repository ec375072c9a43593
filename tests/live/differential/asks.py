"""One request, and short ways to write one."""

import io
import tarfile
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `body` is sent as JSON unless it is bytes; `what` names the case."""

    method: str
    path: str
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    what: str = ""

    @property
    def name(self) -> str:
        shown = self.what or ("" if self.body is None or isinstance(self.body, bytes) else str(self.body))
        return f"{self.method} {self.path} {shown}".rstrip()


def tar(*names: str, **fields: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member)
    return out.getvalue()


def get(path: str, **more: Any) -> Ask:
    return Ask("GET", path, **more)


def post(path: str, body: object = None, **more: Any) -> Ask:
    return Ask("POST", path, body, **more)


SLEEP = {"Image": "busybox", "Cmd": ["sleep", "1000"]}
TAR = {"Content-Type": "application/x-tar"}


def create(name: str, host: dict[str, object] | None = None, **config: object) -> Ask:
    body = {**SLEEP, **config, "HostConfig": {"NetworkMode": "none", **(host or {})}}
    return post(f"/containers/create?name={name}", body, what="of it")


def put(path: str, body: bytes, what: str) -> Ask:
    return Ask("PUT", path, body, TAR, what)
