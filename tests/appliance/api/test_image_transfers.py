"""Routes that move images in and out: archives by bytes, registries by a backend in memory."""

import base64
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from appliance.api.image_transfers import ImageTransferRoutes
from appliance.api.router import Router
from appliance.errors import Forbidden, NotFound, VchError
from appliance.registry import Credentials
from tests.appliance.api.asking import ask
from tests.appliance.api.test_images import lines, opened
from tests.appliance.http.wire import served
from tests.archives import Tar


class _Registry:
    """A TransferBackend; remembers the calls."""

    def __init__(self, error: VchError | None = None, *, late: bool = False) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.error = error
        self.late = late

    async def _report(self, report: Any) -> None:
        if self.error is not None and not self.late:
            raise self.error
        await report({"status": "working"})
        if self.error is not None:
            raise self.error

    async def pull(self, reference: Any, credentials: Credentials, platform: Any, report: Any) -> None:
        self.calls.append(("pull", str(reference), credentials))
        await self._report(report)

    async def push(self, reference: Any, credentials: Credentials, report: Any) -> None:
        self.calls.append(("push", str(reference), credentials))
        await self._report(report)

    async def fetch(self, url: str) -> AsyncGenerator[bytes, None]:
        raise NotFound(url)
        yield b""

    async def log_in(self, host: str, credentials: Credentials) -> None:
        self.calls.append((host, credentials))

    async def search(self, term: str, credentials: Credentials, limit: int) -> list[Any]:
        self.calls.append((term, limit))
        return []

    async def distribution(self, reference: Any, credentials: Credentials) -> Any:
        return {"Descriptor": str(reference)}


async def _ask(registry: Any, line: str, body: Any = None) -> tuple[int, Any]:
    nothing: Any = None
    return await ask(ImageTransferRoutes(nothing, registry, nothing, Path()).routes(), line, body)


@pytest.mark.parametrize(
    ("query", "reference"),
    [
        ("fromImage=app&tag=1", "app:1"),
        ("fromImage=registry.example/team/app", "registry.example/team/app"),
        (f"fromImage=app&tag=sha256:{'a' * 64}", f"app@sha256:{'a' * 64}"),
    ],
)
async def test_pull(query: str, reference: str) -> None:
    registry = _Registry()
    status, answer = await _ask(registry, f"POST /images/create?{query}")
    assert (status, lines(answer)) == (200, [{"status": "working"}])
    assert registry.calls == [("pull", reference, Credentials())]


async def test_errors_before_and_after_the_first_line() -> None:
    line = "POST /images/create?fromImage=app"
    assert await _ask(_Registry(Forbidden("denied")), line) == (403, {"message": "denied"})
    status, answer = await _ask(_Registry(Forbidden("denied"), late=True), line)
    assert status == 200
    assert lines(answer)[1:] == [{"errorDetail": {"message": "denied"}, "error": "denied"}]
    assert (await _ask(_Registry(), "POST /images/create"))[1] == {"message": "fromImage is empty"}


async def test_push() -> None:
    registry = _Registry()
    status, answer = await _ask(registry, "POST /images/team/app/push?tag=2")
    assert (status, lines(answer)) == (200, [{"status": "working"}])
    assert registry.calls == [("push", "team/app:2", Credentials())]
    assert (await _ask(registry, f"POST /images/app@sha256:{'a' * 64}/push"))[0] == 400


async def test_log_in() -> None:
    registry = _Registry()
    body = {"username": "u", "password": "p", "serveraddress": "https://index.docker.io/v1/"}
    assert await _ask(registry, "POST /auth", body) == (200, {"Status": "Login Succeeded", "IdentityToken": ""})
    await _ask(registry, "POST /auth", {**body, "serveraddress": "registry.example:5000"})
    known = Credentials("u", "p", "")
    assert registry.calls == [("docker.io", known), ("registry.example:5000", known)]
    assert (await _ask(registry, "POST /auth", []))[0] == 400


async def test_search_and_distribution() -> None:
    registry = _Registry()
    assert await _ask(registry, "GET /images/search?term=app") == (200, [])
    assert registry.calls == [("app", 25)]
    for query in ("limit=0", "limit=101", 'filters={"stars":["x"]}', 'filters={"nonsense":["x"]}'):
        assert (await _ask(registry, f"GET /images/search?term=app&{query}"))[0] == 400
    assert await _ask(registry, "GET /distribution/team/app/json") == (200, {"Descriptor": "team/app:latest"})


async def test_save_and_load(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with opened(tmp_path / "one") as images:
        status, chunked = await images.ask("GET /images/get?names=app:1")
        assert status == 200
        assert (await images.ask("GET /images/get"))[0] == 400
        assert (await images.ask("GET /images/get?names=none"))[0] == 404
    archive = _unchunk(chunked)
    async with opened(tmp_path / "two", import_one=False) as images:
        status, answer = await images.ask("POST /images/load", archive)
        assert (status, lines(answer)) == (200, [{"stream": "Loaded image: app:1\n"}])
        assert await images.names() == [["app:1"]]
        # The name moves from the image that has it to the one of the archive.
        await images.ask("DELETE /images/app:1")
        await images.ask("POST /images/create?fromSrc=-&repo=app&tag=1", Tar().add("other", b"x").bytes())
        other = (await images.ask("GET /images/app:1/json"))[1]["Id"]
        assert lines((await images.ask("POST /images/load", archive))[1]) == [
            {"stream": f"The image app:1 already exists, renaming the old one with ID {other} to empty string\n"},
            {"stream": "Loaded image: app:1\n"},
        ]
        status, answer = await images.ask("POST /images/load", b"no tar at all")
        assert status == 200
        assert [list(line) for line in lines(answer)] == [["errorDetail", "error"]]


def _unchunk(data: bytes) -> bytes:
    content = b""
    while True:
        size, _, data = data.partition(b"\r\n")
        if not int(size, 16):
            return content
        content, data = content + data[: int(size, 16)], data[int(size, 16) + 2 :]


async def test_credentials_come_in_a_header() -> None:
    registry: Any = _Registry()
    nothing: Any = None
    router = Router()
    router.add_all(ImageTransferRoutes(nothing, registry, nothing, Path()).routes())
    header = base64.urlsafe_b64encode(json.dumps({"username": "u", "password": "p"}).encode()).rstrip(b"=")
    for value in (header, b"not base64 of JSON"):
        async with served(router) as client:
            await client.send(b"POST /images/create?fromImage=app HTTP/1.0\r\nX-Registry-Auth: %s\r\n\r\n" % value)
            assert (await client.receive(1 << 16)).startswith(b"HTTP/1.1 200 OK\r\n")
    assert [call[2] for call in registry.calls] == [Credentials("u", "p", ""), Credentials()]
