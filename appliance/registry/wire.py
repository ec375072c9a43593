"""The lower half of a registry's client: request bodies, certificates, texts of errors. Knows httpx, but not the registry protocol."""

import logging
import os
import re
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import IO, TypeVar, cast

import httpx
import msgspec
import trio

from appliance.errors import ProtocolError, RemoteFailed, leaves
from appliance.streams.json_values import MAX_VALUES, has_too_many_values

log = logging.getLogger(__name__)

T = TypeVar("T")
PIECE = 256 << 10
_PIECES_PER_STEP = 100
Sent = Callable[[int], Awaitable[None]]
"""Gets the number of bytes of an upload that have been sent."""


class ComeBackLater(RemoteFailed):
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


def decode_untrusted(content: bytes, type: type[T]) -> T:
    """Decode JSON of bounded cost.

    msgspec.MsgspecError or RecursionError for anything else than a `type`.
    """
    if has_too_many_values(content):
        raise msgspec.ValidationError(f"more than {MAX_VALUES} values")
    return msgspec.json.decode(content, type=type)


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
        raise RemoteFailed(f"{path}: {error}") from error
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
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


# Few bytes of a compressed answer become gigabytes, so that no limit on received bytes would hold.
IDENTITY = {"Accept-Encoding": "identity"}


def check_encoding(response: httpx.Response) -> None:
    """ProtocolError when the content of an answer is encoded although IDENTITY was sent."""
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise ProtocolError(
            f"{response.url.host} sent an answer with Content-Encoding {encoding[:40]}: nothing asked for it"
        )


async def in_turns(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The pieces of a response's body (httpx's aiter_raw, aiter_bytes). A peer that sends many small chunks at once shares the loop."""
    # httpx makes a generator, and types it as an iterator. Python warns of a generator that is not read to its end.
    async with aclosing(cast(AsyncGenerator[bytes, None], pieces)) as generator:
        count = 0
        async for piece in generator:
            count += 1
            if not count % _PIECES_PER_STEP:
                await trio.lowlevel.checkpoint()
            yield piece
