"""The guest's boot CD: its files, and the same bytes in each build."""

import subprocess
from pathlib import Path

import pytest

from build.guest.iso import write_iso
from tests.build.reproducible import different_files


def _write(folder: Path) -> Path:
    (folder / "initrd").write_bytes(b"initrd" * 5000)
    work = folder / "work"
    work.mkdir()
    (folder / "disk").write_bytes(b"modules" * 5000)
    write_iso(b"kernel" * 5000, folder / "initrd", folder / "disk", work, folder / "cd.iso")
    return folder / "cd.iso"


def test_the_same_bytes_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert different_files(lambda folder: {"cd.iso": _write(folder).read_bytes()}, tmp_path, monkeypatch) == []


def test_files_of_the_cd(tmp_path: Path) -> None:
    command = ["xorriso", "-osirrox", "on", "-indev", str(_write(tmp_path)), "-extract", "/", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "out/vmlinuz").read_bytes() == b"kernel" * 5000
    assert (tmp_path / "out/modules.squashfs").read_bytes() == b"modules" * 5000
    unpacked = subprocess.run(["zstd", "-dcq", str(tmp_path / "out/initrd")], capture_output=True, check=True).stdout
    assert unpacked == b"initrd" * 5000
    assert "vch.line=ttyS0" in (tmp_path / "out/boot/grub/grub.cfg").read_text()
