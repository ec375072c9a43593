"""Detach keys: a sequence of keys that detaches a client from a container without stopping the container (moby pkg/term)."""

from appliance.errors import InvalidParameter

DEFAULT = "ctrl-p,ctrl-q"
_CONTROL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31} | {chr(97 + n): n + 1 for n in range(26)}


def parse_keys(text: str) -> bytes:
    """The bytes of "ctrl-p,ctrl-q", "a,b"... InvalidParameter with Docker's text."""
    keys = bytearray()
    for part in (text or DEFAULT).split(","):
        if len(part) == 1 and ord(part) < 128:
            keys.append(ord(part))
        elif part.startswith("ctrl-") and part[5:].lower() in _CONTROL:
            keys.append(_CONTROL[part[5:].lower()])
        else:
            raise InvalidParameter(f"Unknown character: '{part}'")
    return bytes(keys)


class DetachScanner:
    """Finds the keys in a stream of input. A beginning of the keys is held back until it is clear that the rest does not follow."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return (input for the process, whether the keys are complete)."""
        out = bytearray()
        for value in data:
            if value == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(out), True
                continue
            if self._matched:
                out += self._keys[: self._matched]
                self._matched = 0
                if value == self._keys[0]:
                    self._matched = 1
                    continue
            out.append(value)
        return bytes(out), False
