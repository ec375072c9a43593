"""Bodies of requests, which may be of any size, stop at any byte, or come byte by byte."""

from collections.abc import AsyncGenerator, AsyncIterator

import trio

from appliance.errors import InvalidParameter

# Seconds without a byte of a blob. The blob of a base image comes from its registry while buildkitd sends it.
STALL_SECONDS = 300.0
# For a whole document: a config or a manifest.
DOCUMENT_SECONDS = 60.0
# What decides between a config and a layer. The header of a tar has as many bytes.
_START = 512
# (streams/compression.py detects the same; here it names the kind of a blob that came without its media type.)
_MEDIA_TYPES = {
    b"\x1f\x8b": "application/vnd.docker.image.rootfs.diff.tar.gzip",
    b"\x28\xb5\x2f\xfd": "application/vnd.oci.image.layer.v1.tar+zstd",
}


class BlobBody:
    """The body of a blob's upload: an iterator over its pieces, once. `size` counts the bytes so far."""

    def __init__(self, pieces: AsyncGenerator[bytes, None]) -> None:
        self._pieces = pieces
        self._start: list[bytes] = []
        self.size = 0

    async def peek(self) -> bytes:
        """The first 512 bytes, fewer if the body ends before. They stay in the iterator."""
        have = 0
        while have < _START and (piece := await self._next()):
            self._start.append(piece)
            have += len(piece)
        start = b"".join(self._start)
        self._start = [start] if start else []
        return start[:_START]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        piece = self._start.pop() if self._start else await self._next()
        if not piece:
            raise StopAsyncIteration
        self.size += len(piece)
        return piece

    async def _next(self) -> bytes:
        with trio.move_on_after(STALL_SECONDS):
            return await anext(self._pieces, b"")
        raise InvalidParameter(f"the body has stopped for {STALL_SECONDS:.0f} s")


def is_document(start: bytes) -> bool:
    """Whether a blob that begins so is a config: JSON without a NUL byte, which every header of a tar has.

    The upload of a blob does not say what it is, and a name in a tar may begin with a brace.
    """
    return start.startswith(b"{") and b"\0" not in start


def media_type_of(start: bytes) -> str:
    """The media type of a compressed layer by its first bytes, "" if the compression is another."""
    return next((kind for magic, kind in _MEDIA_TYPES.items() if start.startswith(magic)), "")


async def read_document(body: AsyncIterator[bytes], limit: int, what: str) -> bytes:
    """A whole body. InvalidParameter when it is larger than `limit`, or not complete in time."""
    data = bytearray()
    with trio.move_on_after(DOCUMENT_SECONDS):
        async for piece in body:
            data += piece
            if len(data) > limit:
                raise InvalidParameter(f"the {what} is larger than {limit} bytes")
        return bytes(data)
    raise InvalidParameter(f"the {what} was not complete after {DOCUMENT_SECONDS:.0f} s")
