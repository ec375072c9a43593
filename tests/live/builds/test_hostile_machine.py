"""Builds that want to harm the builder machine, or what is beside it: `make test-build` runs them."""

import subprocess
import time
from collections.abc import Iterator

import pytest

from appliance.buildkit.config import PORT
from tests.live.builds.conftest import in_lane
from tests.live.builds.machine import address_of, machine_daemon
from tests.live.builds.native import BuildDaemon
from tests.live.daemon import on_qemu
from tests.steps import peak_rss

pytestmark = [in_lane, on_qemu]

# A RUN may take so long without KVM.
_PATIENCE = 400
_MOST_GROWTH = 100 << 20


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BuildDaemon]:
    """A vchd with a small builder, and a container beside it."""
    with machine_daemon(tmp_path_factory.mktemp("hostile"), "--builder-disk", "1g") as builds:
        builds.daemon.must("run", "-d", "--name", "other", "busybox", "sleep", "1000000")
        _works(builds)
        yield builds


def _start(builds: BuildDaemon, run: str) -> "subprocess.Popen[str]":
    return builds.start_buildx("build", str(builds.context(f"FROM busybox\nRUN {run}\n")))


def _build(builds: BuildDaemon, run: str) -> tuple[int, str]:
    """The exit code of a build with this RUN, and its stderr."""
    client = _start(builds, run)
    try:
        _, err = client.communicate(timeout=_PATIENCE)
    except BaseException:
        client.kill()
        client.communicate()
        raise
    return client.returncode, err


def _others_answer(builds: BuildDaemon) -> None:
    assert builds.daemon.must("exec", "other", "echo", "here") == "here\n"


def _works(builds: BuildDaemon) -> None:
    """The next build works, and so do other containers."""
    _others_answer(builds)
    code, err = _build(builds, f"echo {time.time()} > /made && cat /made")
    assert code == 0, err


def _builder(builds: BuildDaemon) -> str:
    return builds.daemon.must("ps", "-q", "--filter", "label=vch.role=builder")


def test_who_has_no_certificate_does_not_reach_buildkitd(hostile: BuildDaemon) -> None:
    address = address_of(hostile)
    # Another container meets the firewall.
    knock = ["exec", "other", "nc", "-w", "5", address, str(PORT)]
    assert hostile.daemon.docker(*knock, stdin=b"").returncode
    hostile.daemon.run_inside("bash", "-c", f"echo > /dev/tcp/{address}/{PORT}")
    # A RUN reaches the port, and has none of buildkitd's files.
    preface = r"printf 'PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n\\0\\0\\0\\4\\0\\0\\0\\0\\0'"
    look = "ls /run/vch /run/buildkit; echo looked"
    code, err = _build(hostile, f"{look}; {preface} | nc -w 5 {address} {PORT} | od -An -tx1; echo the end")
    assert code == 0, err
    assert "ls: /run/vch: No such file" in err
    assert "ls: /run/buildkit: No such file" in err
    # The answer is an alert of TLS, or nothing.
    answer = [
        line.split(" ", 2)[2].strip() for line in err.partition("looked\n")[2].partition("the end\n")[0].splitlines()
    ]
    assert not any(answer) or "".join(answer).startswith("15 03"), err


def test_a_fork_bomb(hostile: BuildDaemon) -> None:
    before = _builder(hostile)
    client = _start(hostile, "echo begun; f() { f | f & }; while :; do f; done")
    assert client.stderr is not None
    assert any("begun\n" in line for line in client.stderr)
    time.sleep(20)
    _others_answer(hostile)
    client.terminate()
    client.communicate(timeout=_PATIENCE)
    _works(hostile)
    assert _builder(hostile) == before


def test_a_full_disk(hostile: BuildDaemon) -> None:
    before = _builder(hostile)
    code, err = _build(hostile, "cat /dev/zero > /zeros")
    assert code
    assert "No space left on device" in err
    _others_answer(hostile)
    # BuildKit removes the files of the failed RUN some 20 s later. Until then builds find no room.
    deadline = time.monotonic() + 90
    while (failed := _build(hostile, f"echo {time.time()} > /made"))[0]:
        assert "no space left on device" in failed[1]
        assert time.monotonic() < deadline, failed[1]
        time.sleep(2)
    _works(hostile)
    assert _builder(hostile) == before


def test_a_flood_of_log(hostile: BuildDaemon) -> None:
    before, resident = _builder(hostile), peak_rss(hostile.daemon.pid)
    line = "x" * 1000
    code, err = _build(hostile, f"yes {line} | head -c 100000000; echo the end")
    assert code == 0, err[-2000:]
    assert "output clipped" in err
    assert peak_rss(hostile.daemon.pid) - resident < _MOST_GROWTH
    _works(hostile)
    assert _builder(hostile) == before
