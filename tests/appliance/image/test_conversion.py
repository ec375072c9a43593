"""Conversion in child processes: results, errors in words, converters that are killed or have no memory."""

import errno
import gzip
import hashlib
import io
import os
import signal
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
import trio

from appliance.errors import ProtocolError, Unavailable
from appliance.image import conversion
from appliance.image.conversion import Converters, received, source_of
from appliance.image.erofs import NO_LIMITS, Limits, QuotaExceeded
from appliance.image.layer import FilePart, Layer, convert_untrusted
from appliance.image.recipe import tar_of
from tests.archives import Tar

_TAR = Tar().add("file", b"content" * 3000).bytes()


@pytest.fixture
def converters() -> Iterator[Converters]:
    made = Converters()
    yield made
    made.close()


def _convert(converters: Converters, blob: bytes, folder: Path, limits: Limits = NO_LIMITS) -> Layer:
    source = io.BytesIO(blob)
    return converters.convert(lambda: source.read(1000), folder / "disk", folder / "recipe", limits)


def test_the_result_is_that_of_a_conversion_in_this_process(converters: Converters, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    source = io.BytesIO(_TAR)
    wanted = convert_untrusted(source.read, here / "disk", here / "recipe")
    for _ in range(2):
        assert _convert(converters, _TAR, tmp_path) == wanted
        assert (tmp_path / "disk").read_bytes() == (here / "disk").read_bytes()
        assert b"".join(tar_of(tmp_path / "recipe", tmp_path / "disk")) == _TAR
    (kept,) = converters._idle
    converters.close()
    with pytest.raises(ProcessLookupError):
        os.kill(kept.pid, 0)


def test_a_converter_reads_part_of_a_file_itself(converters: Converters, tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"before" + _TAR + b"behind")
    part = FilePart(str(tmp_path / "archive"), 6, len(_TAR))
    layer = converters.convert(part, tmp_path / "disk", tmp_path / "recipe")
    assert layer.diff_id == f"sha256:{hashlib.sha256(_TAR).hexdigest()}"
    with pytest.raises(ProtocolError, match="unexpected EOF"):
        converters.convert(FilePart(part.path, 6, 3000), tmp_path / "disk", tmp_path / "recipe")


def test_errors_keep_their_words_and_leave_nothing(converters: Converters, tmp_path: Path) -> None:
    with pytest.raises(ProtocolError, match="outside of the layer"):
        _convert(converters, Tar().add("../out", b"x").bytes(), tmp_path)
    with pytest.raises(ProtocolError, match="cannot be decompressed: unexpected EOF"):
        _convert(converters, gzip.compress(_TAR)[:-3], tmp_path)
    with pytest.raises(QuotaExceeded) as exceeded:
        _convert(converters, _TAR, tmp_path, Limits(content=20_000))
    assert exceeded.value.content == 21_000
    with pytest.raises(OSError, match="No space left on device") as full:
        _convert(converters, _TAR, tmp_path, Limits(written=20_000))
    assert full.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []
    assert converters._idle == []


def test_a_source_that_fails_ends_the_converter(converters: Converters, tmp_path: Path) -> None:
    def source() -> bytes:
        raise OSError("the line is cut")

    with pytest.raises(OSError, match="the line is cut"):
        converters.convert(source, tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []
    assert converters._idle == []


def test_a_converter_that_is_killed_is_an_error_in_words(converters: Converters, tmp_path: Path) -> None:
    _convert(converters, _TAR, tmp_path)
    (child,) = converters._idle
    pieces = iter((_TAR[:512], _TAR[512:]))

    def source() -> bytes:
        os.kill(child.pid, signal.SIGKILL)
        return next(pieces, b"")

    with pytest.raises(Unavailable, match=r"the process that converts it was killed by SIGKILL$"):
        converters.convert(source, tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []
    # The next layer gets another process.
    assert _convert(converters, _TAR, tmp_path).size == 21_000


def test_an_idle_converter_that_has_died_is_replaced(converters: Converters, tmp_path: Path) -> None:
    _convert(converters, _TAR, tmp_path)
    os.kill(converters._idle[0].pid, signal.SIGKILL)
    assert _convert(converters, _TAR, tmp_path).size == 21_000


def test_a_converter_that_runs_out_of_memory_is_an_error_in_words(
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
        _convert(converters, blob, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_idle_converters_end(tmp_path: Path) -> None:
    converters = Converters(idle_seconds=0)
    _convert(converters, _TAR, tmp_path)
    timer = converters._timer
    if timer is not None:
        timer.join()
    assert converters._idle == []


async def test_a_channel_is_read_in_a_thread(tmp_path: Path, converters: Converters) -> None:
    sender, receiver = trio.open_memory_channel[bytes](0)

    async def send() -> None:
        async with sender:
            for start in range(0, len(_TAR), 4096):
                await sender.send(_TAR[start : start + 4096])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        layer = await trio.to_thread.run_sync(
            converters.convert, received(receiver), tmp_path / "disk", tmp_path / "recipe"
        )
    assert layer.size == 21_000


async def test_a_sender_that_breaks_off_makes_no_layer(tmp_path: Path, converters: Converters) -> None:
    """Without its last block the archive would still be a complete one."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        yield _TAR
        raise Unavailable("the guest is gone")

    with pytest.raises(Unavailable, match="the guest is gone"):
        async with source_of(pieces()) as source:
            await trio.to_thread.run_sync(converters.convert, source, tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []


async def test_a_layer_that_is_refused_closes_its_sender(tmp_path: Path, converters: Converters) -> None:
    closed = trio.Event()

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"junk" * 10_000
        finally:
            closed.set()

    with pytest.raises(ProtocolError, match="invalid tar header"):
        async with source_of(pieces()) as source:
            await trio.to_thread.run_sync(converters.convert, source, tmp_path / "disk", tmp_path / "recipe")
    assert closed.is_set()
