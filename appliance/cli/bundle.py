"""What goes into a bundle of logs, with what is nobody's business taken out of it."""

import io
import json
import re
import struct
import tarfile
import time
from typing import Any

_HIDDEN = "(removed)"
_KEYS = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.S)
# What is called a secret, until the end of the word or of what is quoted; "authorization: Basic x" has two words.
_NAMED = re.compile(
    r"""(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|authorization|x-registry-auth|cookie)["']?\s*[:=]\s*)"""
    r"""("[^"]*"|'[^']*'|(?:basic|bearer)\s+\S+|[^\s,;}"']+)"""
)
_IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://[^/\s:@]+):[^/\s@]+@", re.I)
# Serial ports are known by what their URIs say.
_PORT = re.compile(r"(vch://|telnets?://)([^\s/\"']*/)?[0-9a-f]{32,}", re.I)


def scrubbed(text: str) -> str:
    """The text without keys, passwords and what else is named as a secret."""
    text = _KEYS.sub(rf"-----{_HIDDEN}-----", text)
    text = _IN_URL.sub(rf"\1:{_HIDDEN}@", text)
    text = _PORT.sub(rf"\1{_HIDDEN}", text)
    return _NAMED.sub(rf"\1{_HIDDEN}", text)


def without_values(inspected: dict[str, Any]) -> dict[str, Any]:
    """A container's `inspect`, of whose environment only names are left."""
    config = dict(inspected.get("Config") or {})
    config["Env"] = [f"{entry.partition('=')[0]}={_HIDDEN}" for entry in config.get("Env") or ()]
    return {**inspected, "Config": config}


def text_of_frames(data: bytes) -> str:
    """Docker's frames of output as lines (Engine API, attach: stream, length, bytes); a half one at the end is left out."""
    out = bytearray()
    place = 0
    while place + 8 <= len(data):
        (size,) = struct.unpack_from(">4xI", data, place)
        out += data[place + 8 : place + 8 + size]
        place += 8 + size
    return out.decode("utf-8", "replace")


class Bundle:
    """A .tar.gz that is being made; all that is added is scrubbed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = io.BytesIO()
        self._archive = tarfile.open(fileobj=self._buffer, mode="w:gz")  # noqa: SIM115 - until `finish`
        self.names: list[str] = []

    def add(self, path: str, content: str | dict[str, Any] | list[Any]) -> None:
        """A text, or what becomes JSON."""
        text = content if isinstance(content, str) else json.dumps(content, indent=1, default=str)
        data = scrubbed(text).encode()
        info = tarfile.TarInfo(f"{self._name}/{path}")
        info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
        self._archive.addfile(info, io.BytesIO(data))
        self.names.append(path)

    def finish(self) -> bytes:
        self._archive.close()
        return self._buffer.getvalue()
