"""The program of a container is read ahead, wherever its root and $PATH lead, and nothing else is touched."""

import os
from pathlib import Path

import pytest

from tether.launch import oci
from tether.launch.prefetch import prefetch
from tether.launch.spec import Spec


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(file, offset) of each read-ahead."""
    calls: list[tuple[str, int]] = []

    def advise(fd: int, offset: int, size: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_WILLNEED
        calls.append((os.path.basename(os.readlink(f"/proc/self/fd/{fd}")), offset))

    monkeypatch.setattr("tether.launch.prefetch.os.posix_fadvise", advise)
    return calls


def _spec(root: Path, program: str, **process: object) -> Spec:
    made = oci.Process(args=(program,), env=("PATH=/usr/bin:/bin",))._replace(**process)  # type: ignore[arg-type]
    return Spec(b"", made, oci.Root(str(root)), "", "", (), oci.Linux(), frozenset())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for directory in ("bin", "usr/bin", "srv"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "bin/sh").write_bytes(bytes((512 << 10) + 1))
    (tmp_path / "srv/app").write_bytes(b"x")
    (tmp_path / "bin/link").symlink_to("/bin/sh")
    os.mkfifo(tmp_path / "bin/fifo")
    return tmp_path


@pytest.mark.parametrize(
    ("program", "cwd", "reads"),
    [
        ("sh", "/", [("sh", 0), ("sh", 512 << 10)]),
        ("link", "/", [("sh", 0), ("sh", 512 << 10)]),
        ("./app", "/srv", [("app", 0)]),
        ("/srv/app", "/", [("app", 0)]),
        ("fifo", "/", []),
        ("missing", "/", []),
        ("/bin", "/", []),
    ],
)
def test_reads(
    root: Path, advised: list[tuple[str, int]], program: str, cwd: str, reads: list[tuple[str, int]]
) -> None:
    prefetch(_spec(root, program, cwd=cwd))
    assert advised == reads


def test_a_large_program_is_read_in_part(root: Path, advised: list[tuple[str, int]]) -> None:
    os.truncate(root / "bin/sh", 64 << 20)
    prefetch(_spec(root, "sh"))
    assert len(advised) == 8


def test_without_a_root(tmp_path: Path, advised: list[tuple[str, int]]) -> None:
    prefetch(_spec(tmp_path / "missing", "sh"))
    assert advised == []
