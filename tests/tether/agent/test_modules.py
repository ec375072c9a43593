"""Kernel modules are loaded with their dependencies, once."""

import os
import stat
from pathlib import Path

import pytest
import trio

from tests.tether.isolated import run_isolated
from tether.agent import modules
from tether.agent.reaper import Reaper
from tether.rpc.status import Code, RpcError


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (tmp_path / "list").write_text("/m/inet_diag.ko /m/tcp_diag.ko\n/m/nf-tables.ko\n")
    paths: list[str] = []
    monkeypatch.setattr(modules, "_LIST", tmp_path / "list")
    monkeypatch.setattr("tether.agent.modules.linux.load_module", paths.append)
    monkeypatch.setattr("tether.agent.modules.os.path.exists", lambda path: path == "/sys/module/already_here")
    return paths


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("tcp_diag", ["/m/inet_diag.ko", "/m/tcp_diag.ko"]),
        ("nf_tables", ["/m/nf-tables.ko"]),
        ("nf-tables", ["/m/nf-tables.ko"]),
        ("already-here", []),
    ],
)
def test_loading(loaded: list[str], name: str, paths: list[str]) -> None:
    modules.load(name)
    assert loaded == paths


def test_an_unknown_module(loaded: list[str]) -> None:
    with pytest.raises(RpcError) as caught:
        modules.load("inet")
    assert (caught.value.code, loaded) == (Code.NOT_FOUND, [])


@pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes")
def test_device_nodes_whose_first_use_loads_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nodes").write_text("net/tun c 10 200\nloop-control c 10 237\nloop0 b 7 0\nthere c 10 1\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/there").touch()
    monkeypatch.setattr(modules, "_NODES", tmp_path / "nodes")
    monkeypatch.setattr(modules, "_DEV", tmp_path / "dev")
    monkeypatch.setattr(modules, "_MODPROBE", tmp_path / "sbin/modprobe")
    modules.prepare_autoload()
    found = {name: (tmp_path / "dev" / name).stat() for name in ("net/tun", "loop-control", "loop0")}
    assert [(stat.S_IMODE(one.st_mode), one.st_rdev) for one in found.values()] == [
        (0o666, os.makedev(10, 200)),
        (0o600, os.makedev(10, 237)),
        (0o600, os.makedev(7, 0)),
    ]
    assert stat.S_ISBLK(found["loop0"].st_mode)
    assert stat.S_ISCHR(found["net/tun"].st_mode)
    assert (tmp_path / "sbin/modprobe").readlink() == Path("/bin/modprobe")


def _mount(script: str) -> None:
    modules._MOUNT = script

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            reaper = Reaper()
            nursery.start_soon(reaper.run)
            Path(script).write_text("exit 0")
            await modules.mount_disk(reaper)
            Path(script).write_text("echo no disk >&2; exit 1")
            with pytest.raises(RpcError, match="modules of the kernel: no disk") as caught:
                await modules.mount_disk(reaper)
            assert caught.value.code == Code.FAILED_PRECONDITION
            nursery.cancel_scope.cancel()

    trio.run(run)


@pytest.mark.skipif(not os.access("/bin/busybox", os.X_OK), reason="runs busybox, as the guest does")
def test_mounting_the_modules_disk(tmp_path: Path) -> None:
    run_isolated(_mount, str(tmp_path / "mount-modules"))
