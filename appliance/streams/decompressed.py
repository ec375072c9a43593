"""Decompresses a stream that arrives piece by piece, beside the event loop."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import trio

from appliance.streams.compression import MAGIC, Decoder, Plain, decoder_for


async def decompressed(source: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Decompress a stream, or pass it through if it is not compressed. ProtocolError for damaged data. Closes the source.

    The pieces are no larger than those of `source`, or than compression.PIECE.
    """
    decoder: Decoder | None = None
    start = b""
    async with aclosing(source):
        async for data in source:
            if decoder is None:
                start += data
                if len(start) < MAGIC:
                    continue
                decoder, data = decoder_for(start), start
            if isinstance(decoder, Plain):
                yield data
                continue
            # A bzip2 block takes 100 ms: too long for the loop.
            pieces = decoder.decompress(data)
            while (piece := await trio.to_thread.run_sync(next, pieces, None)) is not None:
                yield piece
    if decoder is None and start:
        decoder = decoder_for(start)
        for piece in decoder.decompress(start):
            yield piece
    if decoder is not None:
        decoder.finish()
