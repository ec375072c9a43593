"""Real processes by the launcher, in a mount namespace of the test's own whose root is this machine's."""

import errno
import json
import os
from typing import Any

import pytest
import trio

from tests.tether.isolated import run_isolated
from tether.launch import launcher
from tether.launch.failure import Kind, LaunchFailure
from tether.launch.launcher import Prepared, Stdio, launch
from tether.launch.spec import Spec, parse_spec_untrusted
from tether.system import linux

_ROOT = "/run/vch-test-root"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _spec(*args: str, namespaces: tuple[str, ...] = ("mount",), **process: Any) -> Spec:
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": args, "env": ["PATH=/usr/bin:/bin", "A=b"], **process},
        "root": {"path": _ROOT},
        "linux": {"namespaces": [{"type": name} for name in namespaces]},
    }
    return parse_spec_untrusted(json.dumps(spec).encode())


def _make_root() -> None:
    """Bind this machine's root where the launcher can pivot into it; in the test's own mount namespace, so it goes with that."""
    linux.mount("tmpfs", "/run", "tmpfs")
    os.mkdir(_ROOT)
    linux.mount("/", _ROOT, None, linux.MS_BIND | linux.MS_REC)


def _run(spec: Spec, *, join: int = 0, prepared: Prepared | None = None) -> tuple[int, bytes]:
    """(exit status, output) of a process."""
    reading, writing = os.pipe()
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    async def start() -> int:
        return (await launch(spec, Stdio(null, writing, writing), -1, join=join, prepared=prepared)).pid

    pid = trio.run(start)
    os.close(writing)
    with open(reading, "rb") as file:
        output = file.read()
    return (os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if not join else 0), output


def _start() -> None:
    _make_root()
    assert _run(_spec("sh", "-c", "echo $A; echo err >&2; pwd; exit 3", cwd="/usr")) == (3, b"b\nerr\n/usr\n")
    assert _run(_spec("/bin/sh", "-c", "umask; id -u; id -G", user={"uid": 7, "gid": 8, "additionalGids": [9]})) == (
        0,
        b"0022\n7\n8 9\n",
    )


def test_a_process_starts() -> None:
    run_isolated(_start, namespaces=("--mount",))


def _failures() -> None:
    _make_root()
    for spec, kind, subject, searched in (
        (_spec("no-such-program"), Kind.NOT_FOUND, "no-such-program", True),
        (_spec("/no/such/program"), Kind.NOT_FOUND, "/no/such/program", False),
        (_spec("/etc/passwd"), Kind.PERMISSION, "/etc/passwd", False),
        (_spec("/etc"), Kind.PERMISSION, "/etc", False),
        (_spec("sh", cwd="/etc/passwd"), Kind.BAD_WORKING_DIRECTORY, "/etc/passwd", False),
        (_spec("sh", user={"username": "no-such-user"}), Kind.NO_SUCH_USER, "no-such-user", False),
        (_spec("sh", rlimits=[{"type": "RLIMIT_FLY", "soft": 1, "hard": 1}]), Kind.SETUP, "RLIMIT_FLY", False),
    ):
        with pytest.raises(LaunchFailure) as caught:
            _run(spec)
        failure = caught.value
        assert (failure.kind, failure.subject, failure.searched_path) == (kind, subject, searched)


def test_a_failure_has_its_kind() -> None:
    run_isolated(_failures, namespaces=("--mount",))


def _prepared() -> None:
    _make_root()
    spec = _spec("sh", "-c", "echo $$; hostname", namespaces=("mount", "pid", "uts", "ipc"))
    assert Prepared.suits(spec)
    assert not Prepared.suits(_spec("sh"))
    assert _run(spec, prepared=Prepared(-1))[1].split()[0] == b"1"
    # The descriptors that the child received are not those of the program; 3 is the directory.
    spec = _spec("ls", "/proc/self/fd", namespaces=("mount", "pid", "uts", "ipc"))
    output = _run(spec, prepared=Prepared(-1))[1].split()
    assert output == [b"0", b"1", b"2", b"3"], output


def test_a_prepared_child_becomes_the_process() -> None:
    run_isolated(_prepared, namespaces=("--mount",))


@pytest.mark.parametrize(
    ("join", "code", "forked"), [(7, errno.EBUSY, True), (7, errno.EAGAIN, False), (0, errno.EBUSY, False)]
)
def test_an_exec_joins_the_cgroup_of_the_first_process_where_the_containers_is_busy(
    monkeypatch: pytest.MonkeyPatch, join: int, code: int, forked: bool
) -> None:
    groups: list[int] = []

    def fork(flags: int, cgroup: int, child: object) -> int:
        groups.append(cgroup)
        if len(groups) == 1:
            raise OSError(code, os.strerror(code))
        return 4711

    other = os.open("/", os.O_PATH)
    monkeypatch.setattr(launcher, "fork", fork)
    monkeypatch.setattr(launcher, "open_cgroup_of", {7: other}.__getitem__)
    if forked:
        assert launcher._fork_into(3, join, 0, lambda: None) == 4711
        assert groups == [3, other]
    else:
        with pytest.raises(OSError, match=os.strerror(code)):
            launcher._fork_into(3, join, 0, lambda: None)
        os.close(other)
