"""A build and its context, which come in two requests."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.engine.builds.rendezvous import MOST_WAITING, UploadRendezvous
from appliance.errors import InvalidParameter, Unavailable

_PATH = Path("/context")


@asynccontextmanager
async def _receive() -> AsyncIterator[Path]:
    await trio.sleep(20)
    yield _PATH


@pytest.mark.parametrize("build_waits", [0, 4])
async def test_they_meet(build_waits: float, autojump_clock: trio.testing.MockClock) -> None:
    place = UploadRendezvous()
    events = []

    async def build() -> None:
        await trio.sleep(build_waits)
        async with place.take("x") as path:
            events.append(path)
            await trio.sleep(30)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(build)
        await trio.sleep(2)
        await place.give("x", _receive)
        # The file stays until the build has ended.
        assert trio.current_time() >= 50
    assert events == [_PATH]


async def test_neither_waits_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    place = UploadRendezvous()
    with pytest.raises(Unavailable, match="no build x asked"):
        await place.give("x", _receive)
    with pytest.raises(Unavailable, match="no upload for build x"):
        async with place.take("x"):
            pass
    assert trio.current_time() == pytest.approx(10)


async def test_an_upload_that_fails(autojump_clock: trio.testing.MockClock) -> None:
    place = UploadRendezvous()

    @asynccontextmanager
    async def receive() -> AsyncIterator[Path]:
        raise InvalidParameter("too large")
        yield _PATH

    async def upload() -> None:
        with pytest.raises(InvalidParameter, match="too large"):
            await place.give("x", receive)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(upload)
        with pytest.raises(Unavailable, match="no upload for build x"):
            async with place.take("x"):
                pass


async def test_bounds(autojump_clock: trio.testing.MockClock) -> None:
    place = UploadRendezvous()

    async def wait(number: int) -> None:
        with pytest.raises(Unavailable):
            await place.give(str(number), _receive)

    async with trio.open_nursery() as nursery:
        for number in range(MOST_WAITING):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(Unavailable, match="too many"):
            await place.give("more", _receive)
