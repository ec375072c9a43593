"""What lies below a registry's client: bodies, certificates, what errors say. Knows httpx and no registry."""

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
"""Is told how many bytes of an upload have been sent."""


class ComeBackLater(Unavailable):
    """The registry fails for now; `after` says in how many seconds it wants to be asked again, if it does."""

    def __init__(self, text: str, after: float | None = None) -> None:
        super().__init__(text)
        self.after = after


class Piece(httpx.AsyncByteStream):
    """A part of a file as a request's body. No generator: one that is left in the middle is garbage that is warned of."""

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
    """All of it, None when it is more."""
    found = bytearray()
    with trio.CancelScope() as scope:
        async for piece in pieces:
            found += piece
            if len(found) > limit:
                # So that all generators under it, httpx's too, come to their end: left alone they are garbage that is warned of.
                scope.cancel()
    return None if len(found) > limit else bytes(found)


def verification(certificates: Path | None, insecure: bool) -> ssl.SSLContext | bool:
    """What a registry has to prove: by the CAs of certs.d/HOST/*.crt beside the usual ones; *.cert and *.key are ours."""
    try:
        found = sorted(certificates.iterdir()) if certificates is not None and certificates.is_dir() else []
    except OSError as error:
        # Of a host whose name is too long for a folder's there is none.
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
    """What an error says, or the one that caused it: the system's own words where there are such, since httpx's often say nothing."""
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
