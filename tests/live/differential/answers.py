"""The answer of a daemon as far as it is compared: status, headers and shape of the body."""

import base64
import http.client
import io
import json
import socket
import tarfile
from typing import Any

from tests.live.differential.asks import Ask
from tests.live.differential.reasons import NOT_COMPARED


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("d", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def shape(value: Any) -> Any:
    """Names and types, not values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


def _prune(value: Any) -> Any:
    if isinstance(value, dict):
        for path in NOT_COMPARED:
            *way, last = path.split(".")
            inner: Any = value
            for step in way:
                inner = inner.get(step) if isinstance(inner, dict) else None
            if isinstance(inner, dict):
                inner.pop(last, None)
        # dockerd tells of them in any order.
        if isinstance(value.get("Mounts"), list):
            value["Mounts"].sort(key=lambda mount: mount["Destination"])
        # By their IDs, which are unique.
        if isinstance(value.get("Containers"), dict):
            value["Containers"] = list(value["Containers"].values())
    return value


def _member(member: tarfile.TarInfo) -> tuple[object, ...]:
    # dockerd puts the type's bits into the mode as well; what it writes into these three files is its network's.
    size = 0 if member.name.endswith(("hosts", "resolv.conf", "hostname")) else member.size
    return (member.name, member.type, member.mode & 0o7777, member.uid, size, member.linkname)


def answer(path: str, ask: Ask) -> dict[str, Any]:
    connection = _Unix(path)
    headers = dict(ask.headers)
    body = ask.body
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    connection.request(ask.method, f"/v1.41{ask.path}".replace('"', "%22"), body, headers)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    kind = response.headers.get("Content-Type", "")
    found: dict[str, Any] = {"status": response.status, "type": kind}
    if stat := response.headers.get("X-Docker-Container-Path-Stat"):
        decoded = json.loads(base64.b64decode(stat))
        found["stat"] = {**decoded, "mtime": "", "size": 0 if decoded["mode"] >> 31 else decoded["size"]}
    if kind == "application/json" and data:
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        found["body"] = [
            shape([_prune(one) for one in line] if isinstance(line, list) else _prune(line)) for line in lines[:1]
        ]
        found["message"] = lines[0].get("message", "") if isinstance(lines[0], dict) else ""
    elif kind == "application/x-tar":
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            found["body"] = [_member(one) for one in archive]
    else:
        found["body"] = bool(data)
    return found
