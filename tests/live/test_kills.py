"""kill -9 of vchd while machines are on their way: nothing is left over, and the next start works."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.daemon import FLAGS, PATIENCE, Daemon, running_daemon

pytestmark = [pytest.mark.live, pytest.mark.skipif("off" in FLAGS, reason="templates are switched off")]


def _wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _qemus(root: Path) -> list[str]:
    """Command lines of QEMUs whose folder is below root, by the files that they have open."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(b"qemu-system-x86_64"):
                    opened = [str(fd.readlink()) for fd in (process / "fd").iterdir()]
                    if any(path.startswith(str(root)) for path in opened):
                        found.append(words[words.index(b"-name") + 1].decode())
            except (OSError, ValueError):
                continue
    return found


# VMs in the pool.
_POOL = 2 if "2" in FLAGS else 1


def _settled(daemon: Daemon, root: Path) -> None:
    """A vchd without containers has exactly its pool: no other VM, folder or QEMU."""
    daemon.wait_pool(_POOL)
    assert daemon.must("run", "--rm", "busybox", "echo", "whole") == "whole\n"
    daemon.wait_pool(_POOL)
    names = [path.name for path in (root / "exec/machines").iterdir()]
    assert len([name for name in names if name.startswith("blank")]) == len(names) == _POOL
    _wait(lambda: len(_qemus(root)) == _POOL)
    assert not list((root / "data/containers").iterdir())
    assert not [path for path in (root / "cache/vch/templates").iterdir() if path.name.startswith(".")]


@pytest.mark.skipif("0" in FLAGS, reason="a pool is filled here")
def test_kills_while_vms_start(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A cache of its own, so that a template is made here.
    monkeypatch.setenv("XDG_CACHE_HOME", str(short_path / "cache"))
    machines = short_path / "exec/machines"
    with running_daemon(short_path) as daemon:
        _wait(lambda: list(machines.glob("template*/command")))
        time.sleep(0.5)
        daemon.kill()
        daemon.start()
        _settled(daemon, short_path)
        # While the pool fills: from the launch of its QEMU on, at several moments.
        for moment in (0.0, 0.05, 0.2, 0.6):
            daemon.stop()
            daemon.start()
            _wait(lambda: list(machines.glob("blank*/command")))
            time.sleep(moment)
            daemon.kill()
            daemon.start()
        _settled(daemon, short_path)
    with running_daemon(short_path, "--vm-pool", "0") as daemon:
        # While a clone is restored.
        for number, moment in enumerate((0.0, 0.02, 0.05, 0.1, 0.3)):
            name = f"cut{number}"
            daemon.must("create", "--name", name, "busybox", "echo", "whole")
            container = daemon.must("inspect", name, "--format", "{{.Id}}").strip()
            start = subprocess.Popen(
                daemon.command("start", name), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            _wait((machines / container / "machine.json").exists)
            time.sleep(moment)
            daemon.kill()
            start.wait(60)
            daemon.start()
            # The output may come from the first start, if it had come far enough, or from this one.
            assert daemon.must("start", "-a", name) == "whole\n"
            daemon.must("rm", "-f", name)
        assert not list(machines.iterdir())
        assert _qemus(short_path) == []


def test_a_killed_checkpoint_leaves_a_container_that_runs(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        script = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done"
        container = daemon.must("run", "-d", "--name", "counted", "busybox", "sh", "-c", script).strip()
        folder = short_path / "data/containers" / container / "checkpoints"
        for moment in (0.0, 0.05, 0.15):
            command = daemon.command("checkpoint", "create", "counted", "half")
            making = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _wait(lambda: (folder / ".half.half").exists() or (folder / "half").exists())
            time.sleep(moment)
            daemon.kill()
            making.wait(60)
            daemon.start()
            if (folder / "half").exists():
                continue  # it was quicker
            assert list(folder.iterdir()) == []
            before = len(daemon.must("logs", "counted").split())
            deadline = time.monotonic() + 60
            while len(numbers := daemon.must("logs", "counted").split()) < before + 5:
                assert time.monotonic() < deadline, daemon.must("ps", "-a")
                time.sleep(0.1)
            assert numbers == [str(number + 1) for number in range(len(numbers))]
        daemon.must("rm", "-f", "counted")
