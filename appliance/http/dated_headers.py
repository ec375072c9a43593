"""The header lines of every answer, with the Date (RFC 9110 6.6.1)."""

import time
from email.utils import formatdate


class DatedHeaders:
    """`fixed` are header lines that never change, each with its CRLF. Calling the object returns them with the Date of now."""

    def __init__(self, fixed: bytes) -> None:
        self._fixed = fixed
        self._second = -1
        self._lines = b""

    def __call__(self) -> bytes:
        # A Date has whole seconds, so all answers of one second share the text.
        second = int(time.time())
        if second != self._second:
            self._lines = b"%sDate: %s\r\n" % (self._fixed, formatdate(second, usegmt=True).encode())
            self._second = second
        return self._lines
