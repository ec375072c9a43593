"""streamOptimized disks: QEMU reads them, and they have the parts that ESXi requires and QEMU's writer leaves out."""

import io
import random
import struct
import subprocess
from pathlib import Path

import pytest

from build.ova import vmdk

_GRAIN = 64 << 10


def _disk(path: Path, grains: int, used: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        file.truncate(grains * _GRAIN)
        for grain, content in used.items():
            file.seek(grain * _GRAIN)
            file.write(content)
    return path


@pytest.mark.parametrize("grains", [1, 512, 513, 1537])
def test_qemu_reads_the_same(tmp_path: Path, grains: int) -> None:
    chance = random.Random(grains)
    used = {chance.randrange(grains): chance.randbytes(chance.randrange(1, _GRAIN + 1)) for _ in range(min(grains, 40))}
    # Leave a whole grain table empty, and use the last grain.
    used = {grain: content for grain, content in used.items() if not 600 <= grain < 1200} | {grains - 1: b"last"}
    raw = _disk(tmp_path / "raw", grains, used)
    packed, back = tmp_path / "disk.vmdk", tmp_path / "back"
    with packed.open("wb") as out:
        size, populated = vmdk.write(raw, out, 1)
    assert size == packed.stat().st_size
    assert populated == len(used) * _GRAIN
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(packed), str(back)], check=True)
    assert back.read_bytes() == raw.read_bytes()


def test_a_footer_and_an_end_of_stream_marker(tmp_path: Path) -> None:
    raw = _disk(tmp_path / "raw", 600, {0: b"first", 599: b"last"})
    out = io.BytesIO()
    vmdk.write(raw, out, 7)
    data = out.getvalue()
    header, footer, end = data[:512], data[-1024:-512], data[-512:]
    assert end == bytes(512)
    marker = struct.unpack_from("<QII", data, len(data) - 1536)
    assert marker == (1, 0, 3)
    # The footer repeats the header, with the place of the grain directory.
    place = struct.unpack_from("<Q", footer, 56)[0]
    assert struct.unpack_from("<Q", header, 56)[0] == 0xFFFFFFFFFFFFFFFF
    assert footer[:56] == header[:56]
    assert footer[64:] == header[64:]
    assert struct.unpack_from("<QII", data, (place - 1) * 512)[2] == 2
    tables = struct.unpack_from("<2I", data, place * 512)
    # Each grain begins with a marker that has its sector.
    first = struct.unpack_from("<I", data, tables[0] * 512)[0]
    last = struct.unpack_from("<I", data, tables[1] * 512 + 4 * 87)[0]
    assert struct.unpack_from("<Q", data, first * 512)[0] == 0
    assert struct.unpack_from("<Q", data, last * 512)[0] == 599 * 128
    assert first < tables[0] < last < tables[1] < place


def test_blank_disks_are_small_and_quick(tmp_path: Path) -> None:
    raw = _disk(tmp_path / "raw", (40 << 30) // _GRAIN, {})
    out = io.BytesIO()
    size, populated = vmdk.write(raw, out, 0)
    assert populated == 0
    assert size < 100_000


def test_incomplete_grains_are_refused(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(bytes(1000))
    with pytest.raises(ValueError, match="not a whole number of grains"):
        vmdk.write(tmp_path / "raw", io.BytesIO(), 0)
