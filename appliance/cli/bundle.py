"""The archive of `vch logs`, from which secrets are removed."""

import io
import json
import re
import struct
import tarfile
import time
from collections.abc import Mapping, Sequence

_HIDDEN = "(removed)"
_KEYS = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.*?-----END \1-----", re.S)
# A name that means a secret, and the secret: a quoted text or a word. "authorization: Basic x" has two words.
_NAMED = re.compile(
    r"""(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|authorization|x-registry-auth|cookie)["']?\s*[:=]\s*)"""
    r"""("[^"]*"|'[^']*'|(?:basic|bearer)\s+\S+|[^\s,;}"']+)"""
)
_IN_URL = re.compile(r"([a-z][a-z0-9+.-]*://[^/\s:@]+):[^/\s@]+@", re.I)
# The URI of a serial port holds the secret that admits the VM to the concentrator.
_PORT = re.compile(r"(vch://|telnets?://)([^\s/\"']*/)?[0-9a-f]{32,}", re.I)


def scrubbed(text: str) -> str:
    """The text without private keys, passwords, tokens and other values whose name means a secret."""
    text = _KEYS.sub(rf"-----{_HIDDEN}-----", text)
    text = _IN_URL.sub(rf"\1:{_HIDDEN}@", text)
    text = _PORT.sub(rf"\1{_HIDDEN}", text)
    return _NAMED.sub(rf"\1{_HIDDEN}", text)


def without_values(inspected: Mapping[str, object]) -> dict[str, object]:
    """The answer of `inspect` for a container, without the values of the environment variables."""
    config = inspected.get("Config")
    if not isinstance(config, dict):
        return dict(inspected)
    variables = config.get("Env") or ()
    return {**inspected, "Config": {**config, "Env": [f"{entry.partition('=')[0]}={_HIDDEN}" for entry in variables]}}


def text_of_frames(data: bytes) -> str:
    """The text of multiplexed output (Engine API, attach: frames of stream, length, bytes), without an incomplete frame at the end."""
    out = bytearray()
    place = 0
    while place + 8 <= len(data):
        (size,) = struct.unpack_from(">4xI", data, place)
        out += data[place + 8 : place + 8 + size]
        place += 8 + size
    return out.decode("utf-8", "replace")


class Bundle:
    """Builds a .tar.gz archive; every text is scrubbed when it is added."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._buffer = io.BytesIO()
        self._archive = tarfile.open(fileobj=self._buffer, mode="w:gz")  # noqa: SIM115 - `finish` closes the archive
        self.names: list[str] = []

    def add(self, path: str, content: str | Mapping[str, object] | Sequence[object]) -> None:
        """Add a file with this text, or with the JSON of this value."""
        text = content if isinstance(content, str) else json.dumps(content, indent=1, default=str)
        data = scrubbed(text).encode()
        info = tarfile.TarInfo(f"{self._name}/{path}")
        info.size, info.mtime, info.mode = len(data), int(time.time()), 0o600
        self._archive.addfile(info, io.BytesIO(data))
        self.names.append(path)

    def finish(self) -> bytes:
        """The archive, complete."""
        self._archive.close()
        return self._buffer.getvalue()
