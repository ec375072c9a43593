"""The settings of a Docker host are written, whatever a kernel refuses."""

import logging
import resource
from pathlib import Path

import pytest

from tether.system import host_defaults


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    monkeypatch.setattr("tether.system.host_defaults.resource.setrlimit", found.__setitem__)
    return found


def test_all_settings(limits: dict[int, tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_defaults, "_PROC_SYS", tmp_path)
    monkeypatch.setattr(host_defaults, "_HUGE_PAGES", tmp_path / "enabled")
    for name in host_defaults.SYSCTLS:
        (tmp_path / name.replace(".", "/")).parent.mkdir(parents=True, exist_ok=True)
    host_defaults.apply_host_defaults()
    assert (tmp_path / "fs/inotify/max_user_watches").read_text() == "1048576"
    assert (tmp_path / "net/ipv4/ip_forward").read_text() == "1"
    assert (tmp_path / "enabled").read_text() == "madvise"
    assert 128 < int((tmp_path / "vm/min_free_kbytes").read_text()) < 65536
    assert limits[resource.RLIMIT_NOFILE] == (1024, 1048576)
    assert limits[resource.RLIMIT_NPROC] == (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def test_a_kernel_without_a_setting(
    limits: dict[int, tuple[int, int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(host_defaults, "_PROC_SYS", tmp_path)
    monkeypatch.setattr(host_defaults, "_HUGE_PAGES", tmp_path / "missing/enabled")
    (tmp_path / "kernel").mkdir()
    with caplog.at_level(logging.WARNING):
        host_defaults.apply_host_defaults()
    assert (tmp_path / "kernel/pid_max").read_text() == "4194304"
    assert "vm/max_map_count stays: " in caplog.text
    assert resource.RLIMIT_CORE in limits


def test_names_are_those_of_linux() -> None:
    missing = [name for name in host_defaults.SYSCTLS if not Path("/proc/sys", name.replace(".", "/")).exists()]
    assert missing == []
