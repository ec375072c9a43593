"""Builds that want to harm: of the classic path, against a vchd whose buildkitd runs natively. `make test-build` runs them."""

import contextlib
import gzip
import io
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker
import docker.errors
import pytest

from tests.live.builds.conftest import in_lane, on_host
from tests.live.builds.native import PATIENCE, BuildDaemon
from tests.steps import peak_rss

pytestmark = in_lane

_MOST_GROWTH = 100 << 20


def _tar(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    out.seek(0)
    return out


def _member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    return member


_DOCKERFILE = (_member("Dockerfile"), b"FROM busybox\nCOPY . /all\n")


def _lines(builds: BuildDaemon, context: io.BytesIO | Path) -> str:
    """The answer of a build, as text."""
    client = docker.APIClient(base_url=builds.daemon.host, timeout=PATIENCE)
    try:
        if isinstance(context, Path):
            with open(context, "rb") as file:
                answer = client.build(fileobj=file, custom_context=True, encoding="gzip")
                return str(list(answer))
        return str(list(client.build(fileobj=context, custom_context=True)))
    finally:
        client.close()


def _is_alive(builds: BuildDaemon) -> None:
    assert "busybox" in builds.daemon.must("images")


def test_a_context_that_leaves_its_folder(builds: BuildDaemon) -> None:
    outside = Path("/tmp/vch-outside-of-the-context")
    with pytest.raises(docker.errors.APIError, match="is outside of the build context"):
        _lines(builds, _tar(_DOCKERFILE, (_member(f"../../../../../../{outside}"), b"x")))
    link = _member("link", tarfile.SYMTYPE)
    link.linkname = str(outside.parent)
    # BuildKit unpacks in a root of its own, where the link leads nowhere.
    with contextlib.suppress(docker.errors.APIError):
        _lines(builds, _tar(_DOCKERFILE, (link, b""), (_member(f"link/{outside.name}"), b"x")))
    assert not outside.exists()
    device = _member("device", tarfile.BLKTYPE)
    device.devmajor, device.devminor = 8, 0
    _lines(builds, _tar(_DOCKERFILE, (device, b"")))
    _is_alive(builds)


def test_a_bomb(builds: BuildDaemon, tmp_path: Path) -> None:
    """Ten gigabytes of zeros, in ten megabytes."""
    bomb = tmp_path / "bomb.tar.gz"
    member = tarfile.TarInfo("zeros")
    member.size = 10 << 30
    part = gzip.compress(bytes(1 << 28), 9)
    with open(bomb, "wb") as file:
        file.write(gzip.compress(member.tobuf()))
        for _ in range(40):
            file.write(part)
    before = peak_rss(_pid(builds))
    with pytest.raises(docker.errors.APIError, match="more than 8 GiB when decompressed"):
        _lines(builds, bomb)
    assert peak_rss(_pid(builds)) - before < _MOST_GROWTH
    _is_alive(builds)


def test_a_flood_of_output(builds: BuildDaemon) -> None:
    before = peak_rss(_pid(builds))
    answer = _lines(
        builds, _tar((_member("Dockerfile"), b"FROM busybox\nRUN yes | head -c 300000000\nRUN echo the end\n"))
    )
    assert "output clipped" in answer
    assert "the end" in answer
    assert peak_rss(_pid(builds)) - before < _MOST_GROWTH


@on_host
def test_a_client_that_vanishes(builds: BuildDaemon) -> None:
    context = builds.context("FROM busybox\nRUN echo begun; sleep 98765\n")
    env = os.environ | {"DOCKER_BUILDKIT": "0", "DOCKER_HOST": builds.daemon.host}
    process = subprocess.Popen(
        ["docker", "build", str(context)], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line == b"begun\n":
            break
    assert _sleeps()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    _wait(lambda: not _sleeps())
    _is_alive(builds)


def test_twenty_at_once(builds: BuildDaemon) -> None:
    before = peak_rss(_pid(builds))
    contexts = [
        _tar(
            (_member("Dockerfile"), f"FROM busybox\nCOPY f /f\nRUN echo {number} > /n\n".encode()),
            (_member("f"), bytes(1 << 20)),
        )
        for number in range(20)
    ]
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda context: _lines(builds, context), contexts))
    assert all("Successfully built" in answer for answer in answers)
    assert peak_rss(_pid(builds)) - before < _MOST_GROWTH
    # The contexts are gone.
    assert not list((builds.daemon.root / "data/scratch").glob("build-*"))


def _sleeps() -> bool:
    found = subprocess.run(["pgrep", "-f", "^sleep 98765$"], capture_output=True, check=False)
    return bool(found.stdout)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _pid(builds: BuildDaemon) -> int:
    return builds.daemon.pid
