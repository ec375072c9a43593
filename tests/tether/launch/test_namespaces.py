"""Processes that share namespaces, as the kernel shows them in /proc/PID/ns."""

import json
import os
import signal
import time
from functools import partial

import pytest
import trio

from tests.tether.isolated import run_isolated
from tether.launch.launcher import Prepared, Stdio, launch
from tether.launch.namespaces import Namespaces, open_namespace
from tether.launch.spec import Spec, parse_spec_untrusted
from tether.system import linux
from tether.system.network_namespace import make_network_namespace

_ROOT = "/run/vch-test-root"
_KINDS = ("net", "pid", "ipc", "uts", "mnt")
_CHILD_SUBREAPER = 36
_SHOW = f"readlink {' '.join(f'/proc/self/ns/{kind}' for kind in _KINDS)}; echo $$; hostname"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _spec(*args: str) -> Spec:
    namespaces = [{"type": name} for name in ("mount", "pid", "uts", "ipc")]
    spec = {
        "ociVersion": "1.0.2",
        "hostname": "joiner",
        "process": {"args": args, "env": ["PATH=/usr/bin:/bin"]},
        "root": {"path": _ROOT},
        "linux": {"namespaces": namespaces},
    }
    return parse_spec_untrusted(json.dumps(spec).encode())


def _start(spec: Spec, namespaces: Namespaces, *, join: int = 0) -> tuple[int, int]:
    """(pid, its output)."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    start = partial(launch, spec, Stdio(null, writing, writing), -1, join=join, namespaces=namespaces)
    pid = trio.run(start).pid
    os.close(writing)
    os.close(null)
    return pid, reading


def _show(namespaces: Namespaces, *, join: int = 0) -> tuple[dict[str, str], str, str]:
    """Start a program; return (its namespaces, its pid as it sees it, its host name)."""
    pid, reading = _start(_spec("sh", "-c", _SHOW), namespaces, join=join)
    with open(reading) as file:
        *links, own, name = file.read().split()
    assert _wait(pid) == 0
    return dict(zip(_KINDS, links, strict=True)), own, name


def _wait(pid: int) -> int:
    """The wait status of a process that ends. An exec is a child of this process only once the process between them has ended."""
    deadline = time.monotonic() + 30
    while True:
        try:
            return os.waitpid(pid, 0)[1]
        except ChildProcessError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _of(pid: int | str) -> dict[str, str]:
    return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in _KINDS}


def _shared(first: dict[str, str], second: dict[str, str]) -> set[str]:
    return {kind for kind in _KINDS if first[kind] == second[kind]}


def _sharing() -> None:
    linux.prctl(_CHILD_SUBREAPER, 1)
    linux.mount("tmpfs", "/run", "tmpfs")
    os.mkdir(_ROOT)
    linux.mount("/", _ROOT, None, linux.MS_BIND | linux.MS_REC)
    own = make_network_namespace()
    owner, _ = _start(_spec("sleep", "60"), Namespaces(network=own))
    assert _shared(_of(owner), _of("self")) == set()
    opened = {kind: open_namespace(owner, kind) for kind in ("network", "pid", "ipc")}
    for kinds, names in (
        (("network",), {"net"}),
        (("pid",), {"pid"}),
        (("ipc",), {"ipc"}),
        (("network", "pid", "ipc"), {"net", "pid", "ipc"}),
    ):
        found, shown, name = _show(Namespaces(**{kind: opened[kind] for kind in kinds}))
        assert _shared(found, _of(owner)) == names, kinds
        assert _shared(found, _of("self")) == ({"net"} if "network" not in kinds else set()), kinds
        assert (shown == "1", name) == ("pid" not in kinds, "joiner")
    # An exec enters the namespaces of its container, the network's too.
    joiner, _ = _start(_spec("sleep", "60"), Namespaces(**opened))
    found, _, _ = _show(Namespaces(), join=joiner)
    assert _shared(found, _of(joiner)) == set(_KINDS)
    assert found["net"] != os.readlink("/proc/self/ns/net")
    # The kernel kills all processes of a pid namespace with its first one.
    os.kill(owner, signal.SIGTERM)
    os.kill(owner, signal.SIGKILL)
    for pid in (joiner, owner):
        assert os.WTERMSIG(_wait(pid)) == signal.SIGKILL
    with pytest.raises(OSError, match="No such file"):
        open_namespace(owner, "pid")
    namespaces = Namespaces(**opened)
    assert Prepared.suits(_spec("sh"))
    assert not Prepared.suits(_spec("sh"), namespaces)
    namespaces.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened["pid"])


def test_processes_share_the_namespaces_that_are_given() -> None:
    run_isolated(_sharing, namespaces=("--mount",))
