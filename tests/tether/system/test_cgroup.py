"""A cgroup's files, in an ordinary directory instead of the kernel's cgroupfs."""

import os
from pathlib import Path

import pytest

from tether.system import cgroup
from tether.system.cgroup import Cgroup, enable_controllers


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    return tmp_path


def test_controllers_that_the_kernel_has_are_enabled(root: Path) -> None:
    (root / "cgroup.controllers").write_text("cpuset memory rdma pids\n")
    written: list[str] = []

    class Recorder(type(root)):  # type: ignore[misc]
        def write_text(self, text: str) -> int:
            written.append(text)
            return len(text)

    cgroup.ROOT = Recorder(root)
    enable_controllers()
    assert written == ["+cpuset +memory +rdma +pids"]


def test_limits_are_written_as_given(root: Path) -> None:
    group = Cgroup("container-1")
    group.create()
    group.create()
    group.write({"memory.max": "1048576", "pids.max": "max"})
    assert (root / "container-1/memory.max").read_text() == "1048576"
    assert (root / "container-1/pids.max").read_text() == "max"


def test_values(root: Path) -> None:
    group = Cgroup("one")
    group.create()
    (group.path / "cpu.stat").write_text("usage_usec 10\nuser_usec 4\nodd line here\n")
    (group.path / "memory.max").write_text("max\n")
    (group.path / "memory.current").write_text("4096\n")
    (group.path / "memory.events").write_text("oom 2\noom_kill 1\n")
    assert group.flat("cpu.stat") == {"usage_usec": 10, "user_usec": 4}
    assert group.flat("memory.stat") == {}
    assert (group.number("memory.max"), group.number("memory.current"), group.number("pids.max")) == (0, 4096, 0)
    assert group.oom_kills() == 1


def test_processes_also_of_groups_below(root: Path) -> None:
    group = Cgroup("one")
    (group.path / "below").mkdir(parents=True)
    (group.path / "cgroup.procs").write_text("1\n2\n")
    (group.path / "below/cgroup.procs").write_text("3\n")
    assert group.pids() == [1, 2]
    assert sorted(group.all_pids()) == [1, 2, 3]


def test_the_cgroup_of_a_process(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (root / "one/init").mkdir(parents=True)
    (root / "proc/7").mkdir(parents=True)
    (root / "proc/7/cgroup").write_text("1:name=systemd:/x\n0::/one/init\n")
    (root / "proc/8").mkdir()
    (root / "proc/8/cgroup").write_text("1:name=systemd:/x\n")
    monkeypatch.setattr(cgroup, "PROC", root / "proc")
    fd = cgroup.open_cgroup_of(7)
    try:
        assert os.readlink(f"/proc/self/fd/{fd}") == str(root / "one/init")
    finally:
        os.close(fd)
    for pid in (8, 9):
        with pytest.raises(FileNotFoundError):
            cgroup.open_cgroup_of(pid)


def test_freezing_and_killing(root: Path) -> None:
    group = Cgroup("one")
    group.create()
    group.freeze(True)
    assert (group.path / "cgroup.freeze").read_text() == "1"
    (group.path / "cgroup.events").write_text("populated 1\nfrozen 1\n")
    assert group.is_frozen()
    (group.path / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    assert not group.is_frozen()
    group.kill()
    assert (group.path / "cgroup.kill").read_text() == "1"


def test_a_group_that_is_gone_is_removed_already(root: Path) -> None:
    group = Cgroup("one")
    (group.path / "of/its own").mkdir(parents=True)
    group.remove()
    group.remove()
    assert not group.path.exists()
