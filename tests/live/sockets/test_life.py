"""The life of socket mounts: pause, a restart of vchd, checkpoints; and clients in a container that take all that they can get."""

import time
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu
from tests.live.echo import Echo
from tests.live.sockets.conftest import TOOLS
from tests.live.waiting import until
from tests.steps import cpu_seconds, peak_rss

pytestmark = [pytest.mark.live, on_qemu]

_API = ("-v", "/var/run/docker.sock:/var/run/docker.sock", "--label", "vch.docker-socket=read")
# Prints a line for each byte that comes back, with the number of the connection, and a line when a connection has ended.
_TALK = r"""
import socket, time
number = 0
while True:
    number += 1
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect("/run/echo")
            while connection.send(b"x") and connection.recv(1):
                print(f"echoed {number}", flush=True)
                time.sleep(0.2)
        except OSError as error:
            print(error, flush=True)
    print(f"closed {number}", flush=True)
    time.sleep(0.2)
"""


def _echoed(daemon: Daemon, text: str, more: int = 3) -> None:
    """Wait until the container has printed this line `more` times more."""
    wanted = daemon.must("logs", "talk").split("\n").count(text) + more
    until(lambda: daemon.must("logs", "talk").split("\n").count(text) >= wanted, 60, f"no more {text!r}")


def _last(daemon: Daemon) -> int:
    """The number of the connection that is open now."""
    # Not how many have ended: a checkpoint takes the program back to an earlier number.
    closed = [line for line in daemon.must("logs", "talk").split("\n") if line.startswith("closed ")]
    return 1 + int(closed[-1].split()[1]) if closed else 1


def test_pause_restart_and_checkpoints(daemon: Daemon, echo: Echo) -> None:
    # The image is the whole root file system: machines with shared folders have no checkpoints.
    options = ("-v", f"{echo.path}:/run/echo", *_API)
    daemon.must("run", "-d", "--name", "talk", *options, TOOLS.name, "python3", "-c", _TALK)
    try:
        _echoed(daemon, "echoed 1")
        daemon.must("pause", "talk")
        time.sleep(1)
        daemon.must("unpause", "talk")
        _echoed(daemon, "echoed 1")
        assert _last(daemon) == 1
        # The daemon goes and comes back: its connections end, as dockerd's do.
        daemon.kill()
        daemon.start()
        until(lambda: _last(daemon) > 1, 60, "the connection did not end with vchd")
        _echoed(daemon, f"echoed {_last(daemon)}")
        daemon.must("checkpoint", "create", "--leave-running", "talk", "warm")
        _echoed(daemon, f"echoed {_last(daemon)}")
        before = _last(daemon)
        daemon.must("checkpoint", "create", "talk", "cold")
        daemon.must("start", "--checkpoint", "cold", "talk")
        until(lambda: _last(daemon) > before, 60, "the connection of before the checkpoint is not reset")
        _echoed(daemon, f"echoed {_last(daemon)}")
        # Sockets of the API, too.
        assert "talk" in daemon.must("exec", "talk", "docker", "ps", "--format", "{{.Names}}")
        daemon.must("kill", "talk")
        daemon.must("start", "--checkpoint", "warm", "talk")
        _echoed(daemon, f"echoed {_last(daemon)}")
        assert "talk" in daemon.must("exec", "talk", "docker", "ps", "--format", "{{.Names}}")
    finally:
        daemon.docker("rm", "-f", "talk")


# flood.py SOCKET REQUEST: 3000 connections, each of which sends requests as fast as they are taken, and reads nothing.
_FLOOD = r"""
import os, select, signal, socket, sys, time
path, request = sys.argv[1], sys.argv[2].encode().decode("unicode_escape").encode()
for _ in range(4):
    if not os.fork():
        break
waiting = select.epoll()
kept = {}
for _ in range(750):
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        connection.connect(path)
    except BlockingIOError:
        connection.close()
        time.sleep(0.01)
        continue
    kept[connection.fileno()] = connection
    waiting.register(connection, select.EPOLLOUT)
print(len(kept), flush=True)
while kept:
    for number, events in waiting.poll():
        try:
            kept[number].send(request * 100)
        except BlockingIOError:
            pass
        except OSError:
            waiting.unregister(number)
            kept.pop(number).close()
signal.pause()
"""
_REQUEST = r"GET /v1.51/containers/json?all=1 HTTP/1.1\r\nHost: d\r\n\r\n"


@pytest.mark.parametrize("path", ["/run/echo", "/var/run/docker.sock"])
def test_connections_that_are_never_read(daemon: Daemon, echo: Echo, path: str, tmp_path: Path) -> None:
    (tmp_path / "flood.py").write_text(_FLOOD)
    daemon.must("run", "-d", "--name", "quiet", "-v", f"{echo.path}:/run/echo", TOOLS.name, "python3", "-c", _TALK)
    daemon.must(
        "create",
        "--name",
        "floods",
        "-v",
        f"{echo.path}:/run/echo",
        *_API,
        TOOLS.name,
        "python3",
        "/flood.py",
        path,
        _REQUEST,
    )
    daemon.must("cp", str(tmp_path / "flood.py"), "floods:/flood.py")
    before = peak_rss(daemon.pid)
    try:
        daemon.must("start", "floods")
        until(lambda: len(daemon.must("logs", "floods").split()) == 5, 120, "the flood has not begun")
        time.sleep(5)
        # Neighbours, the container itself and the API go on as before.
        begun = time.monotonic()
        assert daemon.must("logs", "quiet").count("closed") == 0
        count = daemon.must("logs", "quiet").count("echoed 1")
        until(lambda: daemon.must("logs", "quiet").count("echoed 1") > count + 5, 60, "a neighbour is disturbed")
        assert daemon.must("exec", "floods", "echo", "here") == "here\n"
        daemon.must("version")
        print(f"{path}: answers in {time.monotonic() - begun:.1f} s")
        cpu = cpu_seconds(daemon.pid)
        time.sleep(3)
        cpu = cpu_seconds(daemon.pid) - cpu
        grown = peak_rss(daemon.pid) - before
        print(f"{path}: {grown >> 20} MiB, CPU {cpu:.2f} s of 3")
        assert grown < 128 << 20, grown
        # Nobody reads: nothing moves any more.
        assert cpu < 1, cpu
        daemon.must("rm", "-f", "floods")
        daemon.must("version")
    finally:
        daemon.docker("rm", "-f", "floods", "quiet")
