"""Bodies: a look at their begin, documents with bounds."""

import gzip
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from backports import zstd

from appliance.engine.builds.door.bodies import BlobBody, is_document, media_type_of, read_document
from appliance.errors import InvalidParameter
from tests.archives import Tar


async def _pieces(*pieces: bytes) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


@pytest.mark.parametrize("pieces", [(), (b"a",), (b"a" * 300, b"b" * 300, b"c" * 5), (b"a" * 10_000,), (b"a",) * 600])
async def test_the_begin_stays_in_the_body(pieces: tuple[bytes, ...]) -> None:
    async with aclosing(_pieces(*pieces)) as source:
        body = BlobBody(source)
        whole = b"".join(pieces)
        assert await body.peek() == whole[:512]
        assert await body.peek() == whole[:512]
        assert body.size == 0
        assert b"".join([piece async for piece in body]) == whole
        assert body.size == len(whole)


def test_a_config_is_told_from_a_layer() -> None:
    assert is_document(b'{"rootfs": {}}')
    for start in (b"", Tar().add("{a}", b"x").bytes()[:512], gzip.compress(b"{"), b"[1]"):
        assert not is_document(start)


def test_compressions_have_media_types() -> None:
    assert media_type_of(gzip.compress(b"x")).endswith("tar.gzip")
    assert media_type_of(zstd.compress(b"x")).endswith("tar+zstd")
    assert media_type_of(b"BZh91AY") == media_type_of(b"") == ""


async def test_a_document_is_bounded() -> None:
    async with aclosing(_pieces(b"ab", b"cd")) as source:
        assert await read_document(BlobBody(source), 4, "manifest") == b"abcd"
    async with aclosing(_pieces(b"ab", b"cd", b"e")) as source:
        with pytest.raises(InvalidParameter, match="the manifest is larger than 4 bytes"):
            await read_document(BlobBody(source), 4, "manifest")
