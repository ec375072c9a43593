"""The routes of builds, by raw bytes."""

import json
import urllib.parse
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from appliance.api.builds.routes import BuildBackend, BuildRoutes, PruneBackend
from appliance.container.build_lines import BuildFailed, BuildLine, BuildResult
from appliance.container.build_request import BuildRequest, PruneRequest
from appliance.errors import InvalidParameter, VchError
from appliance.image.reference import Reference
from appliance.registry import Credentials
from tests.appliance.api.asking import ask

_OK = BuildLine(aux=BuildResult("sha256:1"))


class _Builds:
    """A backend whose builds report `lines`, and fail with `error`."""

    def __init__(self, *lines: BuildLine, error: VchError | None = None) -> None:
        self._lines = lines
        self._error = error
        self.asked: list[object] = []

    @asynccontextmanager
    async def open(
        self,
        request: BuildRequest,
        names: Sequence[Reference],
        credentials: Mapping[str, Credentials],
        body: AsyncGenerator[bytes, None],
    ) -> AsyncIterator["_Builds"]:
        self.asked += [list(map(str, names)), b"".join([piece async for piece in body])]
        yield self

    async def run(self, report: Callable[[BuildLine], Awaitable[None]]) -> None:
        for line in self._lines:
            await report(line)
        if self._error is not None:
            raise self._error

    async def upload(self, build: str, body: AsyncGenerator[bytes, None]) -> None:
        self.asked += [build, b"".join([piece async for piece in body])]

    def cancel(self, build: str) -> None:
        self.asked.append(build)

    async def prune(self, request: PruneRequest) -> tuple[list[str], int]:
        self.asked.append(request)
        return (["a"], 7) if request.everything else ([], 0)


def check_types(builds: _Builds) -> tuple[BuildBackend, PruneBackend]:
    """mypy: it is what the routes call."""
    return builds, builds


async def _ask(builds: _Builds, line: str, body: Any = None) -> tuple[int, Any]:
    return await ask(BuildRoutes(builds, builds).routes(), line, body)


async def test_a_build() -> None:
    builds = _Builds(BuildLine("text\n"), _OK)
    status, content = await _ask(builds, "POST /build?t=a&t=b:1", b"tar")
    assert status == 200
    assert b'{"stream":"text\\n"}' in content
    assert b'{"aux":{"ID":"sha256:1"}}' in content
    assert builds.asked == [["a:latest", "b:1"], b"tar"]


async def test_warnings_come_first() -> None:
    _, content = await _ask(_Builds(_OK), "POST /build?cgroupparent=x&layers=1", b"")
    assert (
        content.index(b"[Warning] layers is not known")
        < content.index(b"[Warning] cgroupparent")
        < content.index(b"aux")
    )
    _, content = await _ask(_Builds(_OK), "POST /build?cgroupparent=x&version=2", b"")
    assert b"Warning" not in content


async def test_failures() -> None:
    status, answer = await _ask(_Builds(error=BuildFailed("bad")), "POST /build", b"")
    assert (status, answer) == (500, {"message": "bad"})
    status, answer = await _ask(_Builds(error=InvalidParameter("bad")), "POST /build", b"")
    assert (status, answer) == (400, {"message": "bad"})
    status, content = await _ask(_Builds(BuildLine("a"), error=BuildFailed("bad", 3)), "POST /build", b"")
    assert status == 200
    assert b'{"errorDetail":{"code":3,"message":"bad"},"error":"bad"}' in content
    for query in ("squash=1", "t=A", "version=3"):
        builds = _Builds()
        assert (await _ask(builds, f"POST /build?{query}", b""))[0] == 400
        assert builds.asked == []


async def test_a_build_without_lines() -> None:
    status, content = await _ask(
        _Builds(), "POST /build?version=2&outputs=" + urllib.parse.quote('[{"Type":"cacheonly"}]'), b""
    )
    assert (status, content) == (200, b"0\r\n\r\n")


async def test_an_upload() -> None:
    builds = _Builds()
    status, _ = await _ask(builds, "POST /build?version=2&buildid=upload-request:x", b"tar")
    assert (status, builds.asked) == (200, ["x", b"tar"])


async def test_cancel() -> None:
    builds = _Builds()
    assert (await _ask(builds, "POST /build/cancel?id=x"))[0] == 200
    assert builds.asked == ["x"]
    assert await _ask(builds, "POST /build/cancel") == (400, {"message": "build ID not provided"})


def _filters(**values: list[str]) -> str:
    return "filters=" + urllib.parse.quote(json.dumps(values))


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("/build/prune", PruneRequest()),
        ("/v1.39/build/prune?all=1&keep-storage=5&reserved-space=6", PruneRequest(everything=True, reserved_space=5)),
        (
            "/build/prune?keep-storage=5&max-used-space=6&min-free-space=7",
            PruneRequest(reserved_space=5, max_used_space=6, min_free_space=7),
        ),
        ("/build/prune?keep-storage=5&reserved-space=6", PruneRequest(reserved_space=6)),
        (
            "/build/prune?" + _filters(id=["a"], type=["regular"], shared=[]),
            PruneRequest(filters=("id~=a,type==regular,shared",)),
        ),
    ],
)
async def test_prune(line: str, asked: PruneRequest) -> None:
    builds = _Builds()
    assert (await _ask(builds, f"POST {line}"))[0] == 200
    assert builds.asked == [asked]


async def test_the_answer_of_a_prune() -> None:
    assert (await _ask(_Builds(), "POST /build/prune"))[1] == {"CachesDeleted": None, "SpaceReclaimed": 0}
    assert (await _ask(_Builds(), "POST /build/prune?all=1"))[1] == {"CachesDeleted": ["a"], "SpaceReclaimed": 7}


async def test_prune_of_what_was_not_used() -> None:
    for name in ("until", "unused-for"):
        builds = _Builds()
        await _ask(builds, f"POST /build/prune?{_filters(**{name: ['24h']})}")
        (asked,) = builds.asked
        assert isinstance(asked, PruneRequest)
        assert 0 <= asked.keep_duration - 24 * 3600 * 10**9 < 10**9


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (_filters(until=["1h", "2h"]), "filters expect only one value"),
        (_filters(id=["a", "b"]), "filters expect only one value"),
        (_filters(until=["1h"], **{"unused-for": ["2h"]}), 'conflicting filters: "until" and "unused-for"'),
        (_filters(until=["x"]), "\"until\" filter expects a duration (e.g., '24h') or a timestamp"),
        (_filters(mutable=[]), "invalid filter 'mutable'"),
        ("reserved-space=x", "reserved-space is in bytes and expects an integer, got x"),
    ],
)
async def test_malformed_prunes(query: str, text: str) -> None:
    status, answer = await _ask(_Builds(), f"POST /build/prune?{query}")
    assert status == 400
    assert answer["message"].startswith(text)
