"""Bodies, certificates, and what errors say."""

import io
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from appliance.errors import Unavailable
from appliance.registry.wire import Piece, read_at_most, retry_after, verification, without_encoding, words_of
from tests.live.certificates import self_signed


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


def test_headers_of_a_body_that_was_decoded() -> None:
    headers = httpx.Headers({"Content-Encoding": "gzip", "Content-Length": "5", "Docker-Content-Digest": "x"})
    assert without_encoding(headers) == {"docker-content-digest": "x"}


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
