"""The lower half of a registry's client: request bodies, certificates, texts of errors. Knows httpx, but not the registry protocol."""

import logging
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import IO

import httpx
import trio

from appliance.errors import Unavailable, leaves

log = logging.getLogger(__name__)

PIECE = 256 << 10
Sent = Callable[[int], Awaitable[None]]
"""Gets the number of bytes of an upload that have been sent."""


class ComeBackLater(Unavailable):
    """The registry fails for now. `after`: the pause in seconds that the registry asks for, or None."""

    def __init__(self, text: str, after: float | None = None) -> None:
        super().__init__(text)
        self.after = after


class Piece(httpx.AsyncByteStream):
    """A part of a file as the body of a request. It is not a generator: Python warns of a generator that is not read to its end."""

    def __init__(self, file: IO[bytes], position: int, length: int, sent: Sent) -> None:
        self._file = file
        self._position = position
        self._end = position + length
        self._sent = sent

    def __aiter__(self) -> "Piece":
        return self

    async def __anext__(self) -> bytes:
        self._file.seek(self._position)
        data = self._file.read(min(PIECE, self._end - self._position))
        if not data:
            raise StopAsyncIteration
        self._position += len(data)
        await self._sent(self._position)
        return data


async def read_at_most(pieces: AsyncIterator[bytes], limit: int) -> bytes | None:
    """All bytes; None when there are more than `limit`."""
    found = bytearray()
    with trio.CancelScope() as scope:
        async for piece in pieces:
            found += piece
            if len(found) > limit:
                # Close the generators below, httpx's too: Python warns of a generator that is not read to its end.
                scope.cancel()
    return None if len(found) > limit else bytes(found)


def verification(certificates: Path | None, insecure: bool) -> ssl.SSLContext | bool:
    """TLS settings for a registry: certs.d/HOST/*.crt are additional CAs, *.cert and *.key are our certificates."""
    try:
        found = sorted(certificates.iterdir()) if certificates is not None and certificates.is_dir() else []
    except OSError as error:
        # The host name may be too long for a file name: then it has no folder.
        log.debug("%s: %s", certificates, error)
        found = []
    if insecure and not found:
        return False
    if not found:
        return True
    context = ssl.create_default_context()
    try:
        for path in found:
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            elif path.suffix == ".cert":
                context.load_cert_chain(path, path.with_suffix(".key"))
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(f"{path}: {error}") from error
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def words_of(error: BaseException | None) -> str:
    """A text for an error: the system's text of the cause, if there is one, because httpx's own texts are often empty."""
    said = type(error).__name__
    seen = error if not isinstance(error, httpx.TimeoutException) else None
    while seen is not None:
        for leaf in leaves(seen):
            if isinstance(leaf, socket.gaierror):
                return str(leaf.strerror).lower()
            if isinstance(leaf, OSError) and not isinstance(leaf, ssl.SSLError) and leaf.errno:
                return os.strerror(leaf.errno).lower()
        if said == type(error).__name__:
            said = str(seen) or said
        seen = seen.__cause__ or seen.__context__
    return said


def retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdigit() else None


def without_encoding(headers: httpx.Headers) -> dict[str, str]:
    return {
        key: value
        for key, value in headers.items()
        if key not in ("content-encoding", "content-length", "transfer-encoding")
    }
