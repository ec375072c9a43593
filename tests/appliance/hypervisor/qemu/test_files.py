"""Sparse copies keep holes, and their digest depends on the content only."""

import os
from pathlib import Path

import pytest

from appliance.hypervisor.qemu.files import check_owner, copy_sparse


def _file(path: Path, pieces: dict[int, bytes], size: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    for position, data in pieces.items():
        os.pwrite(fd, data, position)
    return fd


def test_a_copy_has_the_holes_and_the_digest(tmp_path: Path) -> None:
    size = 64 << 20
    source = _file(tmp_path / "source", {0: b"begin", 40 << 20: b"middle", size - 3: b"end"}, size)
    target = _file(tmp_path / "target", {}, 0)
    # Zeros that were written are holes in the copy.
    os.pwrite(source, bytes(1 << 20), 8 << 20)
    digest = copy_sparse(source, target)
    assert copy_sparse(target, None) == digest == copy_sparse(source, None)
    assert (tmp_path / "target").stat().st_size == size
    assert (tmp_path / "target").stat().st_blocks * 512 < 1 << 20
    assert os.pread(target, 6, 40 << 20) == b"middle"
    os.pwrite(target, b"M", 40 << 20)
    assert copy_sparse(target, None) != digest
    os.close(source)
    os.close(target)


def test_the_digest_depends_on_the_size(tmp_path: Path) -> None:
    one, two = _file(tmp_path / "one", {0: b"x"}, 1 << 20), _file(tmp_path / "two", {0: b"x"}, 2 << 20)
    assert copy_sparse(one, None) != copy_sparse(two, None)
    os.close(one)
    os.close(two)


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    (folder / "file").write_bytes(b"")
    (folder / "file").chmod(0o600)
    check_owner(folder)
    (folder / "file").chmod(0o666)
    with pytest.raises(ValueError, match="file may be written by others"):
        check_owner(folder)
    (folder / "file").unlink()
    (folder / "file").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="file may be written by others"):
        check_owner(folder)
