"""A guest that floods its console fills neither the disk nor the memory."""

import os
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.hypervisor.qemu.machine_logs import KEPT, keep_trimmed, last_words, trim


def _blocks(file: Path) -> int:
    return file.stat().st_blocks * 512


@pytest.mark.parametrize("name", ["console.log", "qemu.log", "virtiofsd.log"])
def test_a_log_is_trimmed_while_its_writer_goes_on(tmp_path: Path, name: str) -> None:
    """QEMU keeps its descriptor and its offset."""
    file = tmp_path / name
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    line = b"x" * 99 + b"\n"
    most = 0
    for _ in range(6):
        os.write(fd, line * 10_000)
        trim(tmp_path)
        most = max(most, _blocks(file))
    os.write(fd, b"the end\n")
    os.close(fd)
    assert file.stat().st_size == 6_000_008
    assert most < 3 << 20
    assert file.read_bytes()[-KEPT:] == (line * 1000)[-KEPT + 8 :] + b"the end\n"
    assert last_words(tmp_path).endswith("x\nthe end")


def test_a_short_log_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"a\n" * 100_000)
    trim(tmp_path)
    assert (tmp_path / "console.log").read_bytes() == b"a\n" * 100_000
    trim(tmp_path / "gone")


def test_only_the_end_of_a_log_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "console.log", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 40)
        file.write(b"Kernel panic\n")
    (tmp_path / "qemu.log").write_bytes(b"\xff" * 5000)
    assert last_words(tmp_path) == "qemu.log: " + "\ufffd" * 2000 + "\nconsole.log: Kernel panic"
    assert last_words(tmp_path / "gone") == ""


async def test_all_machines_are_trimmed_again_and_again(
    tmp_path: Path, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(keep_trimmed, tmp_path)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        file = tmp_path / name / "console.log"
        file.write_bytes(b"x" * (2 << 20))
        for _ in range(1000):
            mock_clock.jump(1)
            if _blocks(file) <= KEPT + 8192:
                break
            await trio.to_thread.run_sync(time.sleep, 0.01)
        assert _blocks(file) <= KEPT + 8192
