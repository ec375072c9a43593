"""Layers: a blob becomes a disk, or nothing."""

import gzip
import hashlib
import io
from pathlib import Path

import pytest
import trio
import zstandard

from appliance.errors import ProtocolError
from appliance.image.layer import convert_untrusted, received
from tests.archives import Tar

_TAR = Tar().add("file", b"content" * 3000).bytes()


@pytest.mark.parametrize("blob", [_TAR, gzip.compress(_TAR), zstandard.compress(_TAR)])
def test_both_digests_are_taken_on_the_way(tmp_path: Path, blob: bytes) -> None:
    source = io.BytesIO(blob)
    layer = convert_untrusted(lambda: source.read(1000), tmp_path / "disk", tmp_path / "recipe")
    assert layer.digest == f"sha256:{hashlib.sha256(blob).hexdigest()}"
    assert layer.diff_id == f"sha256:{hashlib.sha256(_TAR).hexdigest()}"
    assert layer.size == 21_000


@pytest.mark.parametrize(
    "blob",
    [
        b"this is not a tar" * 100,
        _TAR[:5000],
        gzip.compress(_TAR)[:70],
        gzip.compress(_TAR)[:60] + b"\xff" * 60,
        Tar().add("../out", b"x").bytes(),
    ],
)
def test_a_blob_that_is_no_whole_tar_leaves_nothing(tmp_path: Path, blob: bytes) -> None:
    source = io.BytesIO(blob)
    with pytest.raises(ProtocolError):
        convert_untrusted(lambda: source.read(1000), tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def source() -> bytes:
        raise OSError("the line is cut")

    with pytest.raises(OSError, match="the line is cut"):
        convert_untrusted(source, tmp_path / "disk", tmp_path / "recipe")
    assert list(tmp_path.iterdir()) == []


async def test_a_channel_is_read_in_a_thread(tmp_path: Path) -> None:
    sender, receiver = trio.open_memory_channel[bytes](0)

    async def send() -> None:
        async with sender:
            for start in range(0, len(_TAR), 4096):
                await sender.send(_TAR[start : start + 4096])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        layer = await trio.to_thread.run_sync(
            convert_untrusted, received(receiver), tmp_path / "disk", tmp_path / "recipe"
        )
    assert layer.diff_id == f"sha256:{hashlib.sha256(_TAR).hexdigest()}"
