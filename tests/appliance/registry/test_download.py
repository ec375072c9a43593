"""Downloads for `docker import URL`."""

import gzip

import pytest

from appliance.errors import ProtocolError, Unavailable
from appliance.registry import Proxies, download
from appliance.registry.destinations import Destinations
from tests.live.registry import LyingRegistry


async def _download(url: str) -> bytes:
    return b"".join([piece async for piece in download(url, Proxies())])


async def test_a_file_comes_as_it_is() -> None:
    packed = gzip.compress(b"tar")
    with LyingRegistry() as server:
        server.answers["/a.tar.gz"] = (200, {"Content-Encoding": "x-gzip"}, packed, 0.0)
        server.answers["/moved"] = (302, {"Location": "/a.tar.gz"}, b"", 0.0)
        assert await _download(f"http://{server.host}/moved") == packed


async def test_what_fails() -> None:
    with LyingRegistry() as server:
        with pytest.raises(Unavailable, match="Got HTTP status code >= 400: 404"):
            await _download(f"http://{server.host}/absent")
        with pytest.raises(Unavailable, match=r"cannot read http://127\.0\.0\.1:1/: connection refused"):
            await _download("http://127.0.0.1:1/")
        with pytest.raises(Unavailable, match="cannot read http://"):
            await _download("http://[")


async def test_a_server_elsewhere_cannot_send_us_to_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(_: Destinations) -> set[str]:
        return set()

    monkeypatch.setattr(Destinations, "_own_kinds", nothing)
    with LyingRegistry() as server, LyingRegistry() as inside:
        server.answers["/moved"] = (302, {"Location": f"http://{inside.host}/"}, b"", 0.0)
        with pytest.raises(ProtocolError, match=r"a redirect to 127\.0\.0\.1 is refused"):
            await _download(f"http://{server.host}/moved")
        assert inside.asked == []
