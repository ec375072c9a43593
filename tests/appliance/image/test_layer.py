"""Layers: a blob becomes a disk, or nothing."""

import contextlib
import gzip
import hashlib
import io
import tracemalloc
from pathlib import Path

import pytest
from backports import zstd

from appliance.errors import ProtocolError
from appliance.image.layer import convert_untrusted
from appliance.image.recipe import tar_of
from tests.archives import Tar

_TAR = Tar().add("file", b"content" * 3000).bytes()


@pytest.mark.parametrize("blob", [_TAR, gzip.compress(_TAR), zstd.compress(_TAR)])
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


def test_the_first_pieces_may_be_short(tmp_path: Path) -> None:
    source = io.BytesIO(gzip.compress(_TAR))
    layer = convert_untrusted(lambda: source.read(1), tmp_path / "disk", tmp_path / "recipe")
    assert layer.size == 21_000


@pytest.mark.parametrize("blob", [b"", b"zzz", b"zzzzzzzzz", b"\x1f\x8b"])
def test_a_source_is_not_read_after_its_end(tmp_path: Path, blob: bytes) -> None:
    pieces = iter((blob, b"") if blob else (b"",))
    with contextlib.suppress(ProtocolError):
        convert_untrusted(lambda: next(pieces), tmp_path / "disk", tmp_path / "recipe")


def test_a_bomb_takes_little_memory(tmp_path: Path) -> None:
    """A few bytes of gzip become 16 MiB of a file, and as many of padding."""
    blob = gzip.compress(Tar().add("zeros", bytes(16 << 20)).bytes() + bytes(16 << 20))
    source = io.BytesIO(blob)
    tracemalloc.start()
    layer = convert_untrusted(source.read, tmp_path / "disk", tmp_path / "recipe")
    assert sum(map(len, tar_of(tmp_path / "recipe", tmp_path / "disk"))) > 32 << 20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert layer.size == 16 << 20
    assert peak < 8 << 20
