"""Bodies, certificates, and what errors say."""

import io
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from appliance.errors import ProtocolError, Unavailable
from appliance.registry.wire import Piece, check_encoding, in_turns, read_at_most, retry_after, verification, words_of
from tests.live.certificates import self_signed
from tests.steps import cpu_of_steps


async def _pieces(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 10


async def test_a_body_is_bounded() -> None:
    assert await read_at_most(_pieces(5), 50) == b"x" * 50
    assert await read_at_most(_pieces(5), 49) is None
    assert await read_at_most(_pieces(0), 0) == b""


async def test_a_piece_of_a_file() -> None:
    sent: list[int] = []

    async def note(position: int) -> None:
        sent.append(position)

    content = bytes(range(256)) * 4000
    piece = Piece(io.BytesIO(content), 1000, 600_000, note)
    assert b"".join([data async for data in piece]) == content[1000:601_000]
    assert sent[-1] == 601_000
    assert sent == sorted(sent)


def test_words_of_errors() -> None:
    def caused(error: Exception, cause: Exception) -> Exception:
        error.__cause__ = cause
        return error

    refused = ConnectionRefusedError(111, "Connection refused")
    assert words_of(caused(httpx.ConnectError(""), caused(OSError("all failed"), refused))) == "connection refused"
    assert words_of(caused(httpx.ConnectError(""), socket.gaierror(-2, "Name or service not known"))) == (
        "name or service not known"
    )
    assert words_of(httpx.ReadTimeout("")) == "ReadTimeout"
    assert words_of(httpx.ReadError("broken")) == "broken"
    failed = ssl.SSLError(1, "certificate verify failed")
    assert "certificate verify failed" in words_of(caused(httpx.ConnectError(""), failed))


def test_the_pause_that_a_registry_asks_for() -> None:
    assert retry_after(httpx.Response(429, headers={"Retry-After": "7"})) == 7.0
    assert retry_after(httpx.Response(429, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"})) is None
    assert retry_after(httpx.Response(429)) is None
    for odd in (b"\xb2", b"-1", b"9" * 400):
        assert retry_after(httpx.Response(429, headers={b"Retry-After": odd})) is None


def test_encoded_answers_are_refused() -> None:
    request = httpx.Request("GET", "https://registry.test/")
    for fine in ({}, {"Content-Encoding": "identity"}, {"Content-Encoding": ""}):
        check_encoding(httpx.Response(200, headers=fine, request=request))
    for encoding in ("gzip", "GZIP", "identity, gzip", "zstd", "br", "x"):
        with pytest.raises(ProtocolError, match=r"registry\.test sent an answer with Content-Encoding"):
            check_encoding(httpx.Response(200, headers={"Content-Encoding": encoding}, request=request))


async def test_many_small_pieces_share_the_loop() -> None:
    class Trickle(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(20_000):
                yield b"x"

    response = httpx.Response(200, stream=Trickle())
    with cpu_of_steps() as steps:
        assert await read_at_most(in_turns(response.aiter_bytes()), 20_000) == b"x" * 20_000
    assert steps.count > 100
    assert steps.longest < 0.05, steps


def test_certificates_of_a_registry(tmp_path: Path) -> None:
    assert verification(None, insecure=False) is True
    assert verification(None, insecure=True) is False
    assert verification(tmp_path / "none", insecure=False) is True
    assert verification(tmp_path / ("x" * 300), insecure=False) is True
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    folder = tmp_path / "certs.d"
    folder.mkdir()
    (folder / "ca.crt").write_bytes(certificate.read_bytes())
    (folder / "client.cert").write_bytes(certificate.read_bytes())
    (folder / "client.key").write_bytes(key.read_bytes())
    strict = verification(folder, insecure=False)
    assert isinstance(strict, ssl.SSLContext)
    assert strict.verify_mode == ssl.CERT_REQUIRED
    lenient = verification(folder, insecure=True)
    assert isinstance(lenient, ssl.SSLContext)
    assert lenient.verify_mode == ssl.CERT_NONE
    (folder / "ca.crt").write_bytes(b"not a certificate")
    with pytest.raises(Unavailable, match=r"ca\.crt: "):
        verification(folder, insecure=False)
