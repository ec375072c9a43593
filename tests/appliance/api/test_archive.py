"""Routes for files of containers."""

import base64
import json
import stat
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from appliance.api.archive import ArchiveRoutes, go_mode
from appliance.api.router import Router
from appliance.errors import NotFound
from appliance.guest import Change, PathStat
from tests.appliance.api.asking import ask
from tests.appliance.http.wire import served


@pytest.mark.parametrize(
    ("mode", "go"),
    [
        (stat.S_IFREG | 0o644, 0o644),
        (stat.S_IFDIR | 0o755, 1 << 31 | 0o755),
        (stat.S_IFLNK | 0o777, 1 << 27 | 0o777),
        (stat.S_IFCHR | 0o600, 1 << 26 | 1 << 21 | 0o600),
        (stat.S_IFBLK | 0o600, 1 << 26 | 0o600),
        (stat.S_IFIFO | 0o600, 1 << 25 | 0o600),
        (stat.S_IFSOCK | 0o600, 1 << 24 | 0o600),
        (stat.S_IFREG | stat.S_ISUID | 0o755, 1 << 23 | 0o755),
        (stat.S_IFREG | stat.S_ISGID | 0o755, 1 << 22 | 0o755),
        (stat.S_IFDIR | stat.S_ISVTX | 0o777, 1 << 31 | 1 << 20 | 0o777),
    ],
)
def test_modes_are_those_of_go(mode: int, go: int) -> None:
    assert go_mode(mode) == go


class _Files:
    """A FileBackend with one file of two pieces."""

    def __init__(self) -> None:
        self.written: tuple[Any, ...] = ()
        self.changed: list[list[Change]] = []

    async def stat(self, ref: str, path: str) -> PathStat:
        if path != "/file":
            raise NotFound(f"Could not find the file {path} in container {ref}")
        return PathStat("file", 5, stat.S_IFREG | 0o644, 1_000_000_000, "")

    @asynccontextmanager
    async def read(self, ref: str, path: str) -> AsyncIterator[tuple[PathStat, AsyncGenerator[bytes, None]]]:
        yield await self.stat(ref, path), self._pieces()

    async def _pieces(self) -> AsyncGenerator[bytes, None]:
        yield b"first "
        yield b"second"

    async def write(self, ref: str, path: str, source: AsyncGenerator[bytes, None], **options: bool) -> None:
        self.written = (ref, path, b"".join([piece async for piece in source]), options)

    @asynccontextmanager
    async def changes(self, ref: str) -> AsyncIterator[AsyncGenerator[list[Change], None]]:
        yield self._batches()

    async def _batches(self) -> AsyncGenerator[list[Change], None]:
        for batch in self.changed:
            yield batch

    @asynccontextmanager
    async def export(self, ref: str) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        yield self._pieces()


async def test_stat() -> None:
    routes = ArchiveRoutes(_Files()).routes()
    router = Router()
    router.add_all(routes)
    async with served(router) as client:
        await client.send(b"HEAD /containers/box/archive?path=/file HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await client.receive(len(b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: 0\r\n"))
        assert head == b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: 0\r\n"
        client.end()
        line = await client.receive(1 << 16)
    name, _, value = line.strip().partition(b": ")
    assert name == b"X-Docker-Container-Path-Stat"
    assert json.loads(base64.b64decode(value)) == {
        "name": "file",
        "size": 5,
        "mode": 0o644,
        "mtime": "1970-01-01T00:00:01.000000000Z",
        "linkTarget": "",
    }


async def test_changes() -> None:
    files = _Files()
    routes = ArchiveRoutes(files).routes()
    assert await ask(routes, "GET /containers/box/changes") == (200, None)
    files.changed = [[Change(0, "/etc"), Change(1, '/etc/"')], [Change(2, "/tmp")]]
    status, chunks = await ask(routes, "GET /containers/box/changes")
    body = b"".join(chunks.split(b"\r\n")[1::2])
    found = [{"Path": "/etc", "Kind": 0}, {"Path": '/etc/"', "Kind": 1}, {"Path": "/tmp", "Kind": 2}]
    assert (status, json.loads(body)) == (200, found)


async def test_read_and_export() -> None:
    routes = ArchiveRoutes(_Files()).routes()
    chunks = b"6\r\nfirst \r\n6\r\nsecond\r\n0\r\n\r\n"
    assert await ask(routes, "GET /containers/box/archive?path=/file") == (200, chunks)
    assert await ask(routes, "GET /containers/box/export") == (200, chunks)
    status, body = await ask(routes, "GET /containers/box/archive?path=/none")
    assert (status, body["message"]) == (404, "Could not find the file /none in container box")


@pytest.mark.parametrize("query", ["", "?path=", "?path=a%00b"])
async def test_paths_that_are_refused(query: str) -> None:
    for method in ("GET", "PUT"):
        status, body = await ask(ArchiveRoutes(_Files()).routes(), f"{method} /containers/box/archive{query}")
        assert status == 400
        assert body["message"].startswith("bad parameter: path ")


async def test_write() -> None:
    files = _Files()
    line = "PUT /containers/box/archive?path=/there&noOverwriteDirNonDir=1"
    assert await ask(ArchiveRoutes(files).routes(), line, "content") == (200, b"")
    assert files.written == (
        "box",
        "/there",
        b'"content"',
        {"no_overwrite_dir_non_dir": True, "copy_owner": False},
    )


async def test_copy_is_gone_since_1_24() -> None:
    routes = ArchiveRoutes(_Files()).routes()
    assert (await ask(routes, "POST /v1.23/containers/box/copy", {"Resource": "/file"}))[0] == 200
    assert (await ask(routes, "POST /v1.23/containers/box/copy", {}))[0] == 400
    assert await ask(routes, "POST /containers/box/copy", {"Resource": "/file"}) == (404, {"message": "page not found"})


async def test_no_changes_are_null() -> None:
    assert await ask(ArchiveRoutes(_Files()).routes(), "GET /containers/box/changes") == (200, None)
