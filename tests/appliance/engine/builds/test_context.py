"""Contexts in files: bounds, and what their reader makes of them."""

import io
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.engine.builds import context
from appliance.engine.builds.context import ContextSpool
from appliance.errors import InvalidParameter, Unavailable
from appliance.image.context_scan import Job, Scan


def _tar(**files: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name.replace("ignore_file", ".dockerignore"))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
    return out.getvalue()


async def _body(data: bytes, piece: int = 100_000) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), piece):
        yield data[start : start + piece]


async def test_a_context_is_kept_for_the_block(tmp_path: Path) -> None:
    spool = ContextSpool(tmp_path, 1 << 20)
    data = _tar(Dockerfile="FROM a", big="x" * 300_000)
    async with spool.receive(_body(data), "Dockerfile") as kept:
        assert kept.archive.read_bytes() == data
        assert (kept.dockerfile, kept.folder, [step.text for step in kept.steps]) == ("Dockerfile", "", ["FROM a"])
    assert list(tmp_path.iterdir()) == []
    async with spool.receive(_body(_tar(Dockerfile="FROM a", ignore_file="*")), "Dockerfile") as kept:
        assert (kept.dockerfile, kept.folder, kept.archive.name) == ("Dockerfile", "context", "rewritten")


async def test_faults_of_the_context(tmp_path: Path) -> None:
    spool = ContextSpool(tmp_path, 1 << 20)
    for data, text in (
        (_tar(a=""), "Cannot locate specified Dockerfile: Dockerfile"),
        (b"x" * 1024, "Error processing tar file"),
        (bytes((1 << 20) + 1), "larger than 1048576 bytes"),
    ):
        with pytest.raises(InvalidParameter, match=text):
            async with spool.receive(_body(data), "Dockerfile"):
                pass
    assert list(tmp_path.iterdir()) == []


async def test_a_file_system_without_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "room_on", lambda folder: 1 << 20)
    with pytest.raises(Unavailable, match="no space left on device"):
        async with ContextSpool(tmp_path, 1 << 20).receive(_body(_tar(Dockerfile="FROM a")), "Dockerfile"):
            pass


async def test_a_context_that_does_not_arrive(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async def body() -> AsyncGenerator[bytes, None]:
        for _ in range(3):
            yield b"x"
            await trio.sleep(290)
        await trio.sleep_forever()

    with pytest.raises(InvalidParameter, match="nothing came for 300 s"):
        async with ContextSpool(tmp_path, 1 << 20).receive(body(), "Dockerfile"):
            pass


async def test_few_readers_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = running = 0

    async def scan(job: Job) -> Scan:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await trio.testing.wait_all_tasks_blocked()
        running -= 1
        return Scan(job.dockerfile)

    async def receive() -> None:
        async with spool.receive(_body(_tar(Dockerfile="FROM a")), "Dockerfile"):
            pass

    monkeypatch.setattr(context, "_scan", scan)
    spool = ContextSpool(tmp_path, 1 << 20)
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(receive)
    assert (most, running) == (4, 0)


async def test_a_reader_that_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_COMMAND", ("python", "-c", "import os; os.abort()"))
    with pytest.raises(Unavailable, match="ended with status -6"):
        async with ContextSpool(tmp_path, 1 << 20).receive(_body(_tar(Dockerfile="FROM a")), "Dockerfile"):
            pass
