"""Conversion in child processes: results, errors in words, converters that are killed or have no memory."""

import errno
import gzip
import hashlib
import io
import math
import os
import resource
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.errors import ProtocolError, Unavailable
from appliance.image import conversion
from appliance.image.conversion import Converters
from appliance.image.converter import MAX_CPU_SECONDS, Job
from appliance.image.erofs import NO_LIMITS, Limits, QuotaExceeded
from appliance.image.layer import FilePart, Layer, convert_untrusted
from appliance.image.recipe import tar_of
from tests.archives import Pieces, Tar
from tests.steps import cpu_seconds

_TAR = Tar().add("file", b"content" * 3000).bytes()


@pytest.fixture
async def converters(nursery: trio.Nursery) -> Converters:
    return Converters(nursery)


async def _convert(converters: Converters, blob: bytes, folder: Path, limits: Limits = NO_LIMITS) -> Layer:
    return await converters.convert(Pieces(blob, 1000), folder / "disk", folder / "recipe", limits)


def _only_idle(converters: Converters) -> int:
    (converter,) = converters._idle
    return converter.pid


def _has_ended(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_the_result_is_that_of_a_conversion_in_this_process(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    source = io.BytesIO(_TAR)
    wanted = convert_untrusted(source.read, here / "disk", here / "recipe")
    async with trio.open_nursery() as nursery:
        converters = Converters(nursery)
        for _ in range(2):
            assert await _convert(converters, _TAR, tmp_path) == wanted
            assert (tmp_path / "disk").read_bytes() == (here / "disk").read_bytes()
            assert b"".join(tar_of(tmp_path / "recipe", tmp_path / "disk")) == _TAR
        pid = _only_idle(converters)
        assert not _has_ended(pid)
        nursery.cancel_scope.cancel()
    assert _has_ended(pid)


async def test_a_converter_reads_part_of_a_file_itself(converters: Converters, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"before" + _TAR + b"behind")
    part = FilePart(str(tmp_path / "archive"), 6, len(_TAR))
    layer = await converters.convert(part, tmp_path / "disk", tmp_path / "recipe")
    assert layer.diff_id == f"sha256:{hashlib.sha256(_TAR).hexdigest()}"
    with pytest.raises(ProtocolError, match="unexpected EOF"):
        await converters.convert(FilePart(part.path, 6, 3000), tmp_path / "disk", tmp_path / "recipe")


async def test_errors_keep_their_words_and_leave_nothing(converters: Converters, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="outside of the layer"):
        await _convert(converters, Tar().add("../out", b"x").bytes(), tmp_path)
    with pytest.raises(QuotaExceeded) as exceeded:
        await _convert(converters, _TAR, tmp_path, Limits(content=20_000))
    assert exceeded.value.content == 21_000
    with pytest.raises(OSError, match="No space left on device") as full:
        await _convert(converters, _TAR, tmp_path, Limits(written=20_000))
    assert full.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    assert not converters._idle


async def test_a_conversion_that_is_cancelled_at_its_begin_leaves_nothing(
    converters: Converters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converter may have opened its files while its answer to the job is on the way."""
    begin = conversion._Converter.begin

    async def slow(converter: conversion._Converter, job: Job) -> bool:
        assert await begin(converter, job)
        while not (tmp_path / "recipe").exists():
            await trio.lowlevel.checkpoint()
        scope.cancel()
        await trio.lowlevel.checkpoint()
        return True

    monkeypatch.setattr(conversion._Converter, "begin", slow)
    with trio.CancelScope() as scope:
        await _convert(converters, _TAR, tmp_path)
    assert scope.cancelled_caught
    assert list(tmp_path.iterdir()) == []


async def test_a_converter_that_is_killed_is_an_error_in_words(converters: Converters, tmp_path: Path) -> None:
    await _convert(converters, _TAR, tmp_path)
    pid = _only_idle(converters)

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield _TAR[:512]
        os.kill(pid, signal.SIGKILL)
        await trio.sleep_forever()

    async with aclosing(pieces()) as source:
        with pytest.raises(Unavailable, match=r"the process that converts it was killed by SIGKILL$"):
            await converters.convert(source, tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []
    # The next layer gets another process.
    layer = await _convert(converters, _TAR, tmp_path)
    assert layer.size == 21_000
    # So it does if the process dies while it waits.
    os.kill(_only_idle(converters), signal.SIGKILL)
    assert await _convert(converters, _TAR, tmp_path) == layer


async def test_a_layer_has_a_bound_on_cpu_time(converters: Converters, tmp_path: Path) -> None:
    """The kernel sends SIGXCPU when the limit is reached; each layer of a converter gets the same time."""
    await _convert(converters, _TAR, tmp_path)
    pid = _only_idle(converters)

    async def pieces() -> AsyncGenerator[bytes, None]:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_CPU)
        assert MAX_CPU_SECONDS < soft <= MAX_CPU_SECONDS + math.ceil(cpu_seconds(pid))
        os.kill(pid, signal.SIGXCPU)
        await trio.sleep_forever()
        yield b""

    async with aclosing(pieces()) as source:
        with pytest.raises(ProtocolError, match=r"^the layer takes too long to read: more than 1800 s of CPU time$"):
            await converters.convert(source, tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []


async def test_a_conversion_ends_when_it_is_cancelled(converters: Converters, tmp_path: Path) -> None:
    """Also of a part of a file, which the process reads without a word to vchd: here it waits for a pipe's other end."""
    await _convert(converters, _TAR, tmp_path)
    pid = _only_idle(converters)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def convert(scope: trio.CancelScope, part: FilePart) -> None:
        with scope:
            await converters.convert(part, tmp_path / "disk", tmp_path / "recipe")

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(convert, scope, FilePart(str(pipe), 0, 1000))
        await trio.testing.wait_all_tasks_blocked(0.05)
        scope.cancel()
    assert scope.cancelled_caught
    assert _has_ended(pid)
    assert list(tmp_path.iterdir()) == [pipe]
    assert not converters._idle


async def test_a_converter_that_runs_out_of_memory_is_an_error_in_words(
    converters: Converters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some KiB of gzip stand for 16 MiB of extended attributes; the process may take 8 MiB more than it has at its start."""
    size = "int(open('/proc/self/statm').read().split()[0]) * 4096"
    limit = f"import appliance.image.converter as c; c.MAX_MEMORY = {size} + (8 << 20); c.main()"
    monkeypatch.setattr(conversion, "_COMMAND", (*conversion._COMMAND[:2], "-c", limit))
    values = {f"SCHILY.xattr.user.{name}": "v" * 60_000 for name in "ab"}
    entries = [Tar().add(f"d{number}", pax_headers=values).bytes().rstrip(b"\0") for number in range(140)]
    blob = b"".join(gzip.compress(entry + bytes(-len(entry) % 512), 1) for entry in entries)
    with pytest.raises(ProtocolError, match="memory"):
        await _convert(converters, blob, tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_idle_converters_end(nursery: trio.Nursery, tmp_path: Path) -> None:
    converters = Converters(nursery, idle_seconds=0)
    await _convert(converters, _TAR, tmp_path)
    pid = _only_idle(converters)
    while nursery.child_tasks:  # noqa: ASYNC110
        await trio.sleep(0.005)
    assert not converters._idle
    assert _has_ended(pid)


async def test_a_sender_that_breaks_off_makes_no_layer(tmp_path: Path, converters: Converters) -> None:
    """Without its last block the archive would still be a complete one."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield _TAR
        raise Unavailable("the guest is gone")

    with pytest.raises(Unavailable, match="the guest is gone"):
        await converters.convert(pieces(), tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []
    assert not converters._idle


async def test_a_layer_that_is_refused_does_not_wait_for_its_sender(tmp_path: Path, converters: Converters) -> None:
    async def pieces() -> AsyncGenerator[bytes, None]:
        yield b"junk" * 10_000
        await trio.sleep_forever()

    with pytest.raises(ProtocolError, match="invalid tar header"):
        await converters.convert(pieces(), tmp_path / "disk", tmp_path / "recipe")
