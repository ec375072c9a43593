"""Build clients that misbehave or vanish: the next build works, and vchd gives back what they held."""

import os
import socket
import time
from pathlib import Path

from tests.live.builds.conftest import in_lane
from tests.live.builds.native import BuildDaemon
from tests.live.waiting import until
from tests.steps import peak_rss
from tether.rpc.http2.frames import PREFACE, SETTINGS, frame_header

_UPGRADE = "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n{more}\r\n"
_SESSION = "X-Docker-Expose-Session-Uuid: 0123456789\r\nX-Docker-Expose-Session-Name: x\r\n"


def _upgraded(builds: BuildDaemon, path: str, more: str = "") -> tuple[socket.socket, bytes]:
    """A connection that has asked for the upgrade, and the start of the answer."""
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(20)
    client.connect(str(builds.daemon.socket))
    client.sendall(_UPGRADE.format(path=path, more=more).encode())
    return client, client.recv(4096)


def _descriptors(builds: BuildDaemon) -> int:
    return len(os.listdir(f"/proc/{builds.daemon.pid}/fd"))


def _builds(builds: BuildDaemon) -> None:
    context = builds.context(f"FROM busybox\nRUN echo {time.time()}\n")
    builds.buildx("build", "-t", "after", str(context))


@in_lane
def test_more_connections_than_there_are_places(builds: BuildDaemon) -> None:
    _builds(builds)
    before = _descriptors(builds)
    for path, most, more in (("/grpc", 256, ""), ("/session", 128, _SESSION)):
        opened = [_upgraded(builds, path, more) for _ in range(most + 5)]
        answers = [answer.split(b" ", 2)[1] for _, answer in opened]
        assert answers == [b"101"] * most + [b"503"] * 5
        for client, _ in opened:
            client.close()
        until(lambda: _descriptors(builds) <= before + 2, what="descriptors of vchd stay open")
    _builds(builds)


@in_lane
def test_bytes_that_mean_nothing(builds: BuildDaemon) -> None:
    _builds(builds)
    before, resident = _descriptors(builds), peak_rss(builds.daemon.pid)
    settings = PREFACE + frame_header(0, SETTINGS, 0, 0)
    for path, more in (("/grpc", ""), ("/session", _SESSION)):
        for content in (
            b"nonsense\r\n\r\n",
            os.urandom(1 << 20),
            settings + os.urandom(1 << 20),
            settings,
            PREFACE[:10],
        ):
            client, answer = _upgraded(builds, path, more)
            assert answer.startswith(b"HTTP/1.1 101 ")
            try:
                client.sendall(content)
            except OSError:
                pass  # It was closed on the way.
            client.close()
    until(lambda: _descriptors(builds) <= before + 2, what="descriptors of vchd stay open")
    assert peak_rss(builds.daemon.pid) - resident < 30 << 20
    _builds(builds)


@in_lane
def test_a_client_that_is_killed_while_it_sends_its_context(builds: BuildDaemon) -> None:
    _builds(builds)
    context = builds.context("FROM busybox\nCOPY large /\n")
    with open(context / "large", "wb") as file:
        for _ in range(200):
            file.write(os.urandom(1 << 20))
    before, resident = _descriptors(builds), peak_rss(builds.daemon.pid)
    for delay in (0.3, 0.6, 0.9):
        process = builds.start_buildx("build", "-t", "large", str(context))
        time.sleep(delay)
        process.kill()
        process.communicate()
    until(lambda: _descriptors(builds) <= before + 2, what="descriptors of vchd stay open")
    assert peak_rss(builds.daemon.pid) - resident < 60 << 20
    builds.buildx("build", "-t", "large", str(context))
    Path(context / "large").unlink()
