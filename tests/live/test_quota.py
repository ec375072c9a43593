"""The storage quota of images and containers together."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, running_daemon
from tests.live.images import busybox_layer, image_archive, layer_with

pytestmark = pytest.mark.live


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as path:
        Path(path).chmod(0o711)
        with running_daemon(Path(path), "--storage-quota", "40m", "--vm-pool", "0") as one:
            yield one


def test_data_beyond_the_quota_is_refused(daemon: Daemon) -> None:
    assert "of 40 MiB" in daemon.must("info", "-f", "{{json .DriverStatus}}")
    large = image_archive([busybox_layer(), layer_with("file", 50 << 20)], {}, "large")
    failed = daemon.docker("load", stdin=large, check=False)
    assert failed.returncode
    assert "storage quota exceeded" in failed.stdout + failed.stderr
    assert "large" not in daemon.must("images")
    fill = "dd if=/dev/urandom of=/file bs=1M count=40; sync"
    daemon.must("run", "--name", "full", "busybox", "sh", "-c", fill)
    failed = daemon.docker("create", "--name", "more", "busybox", check=False)
    assert "storage quota exceeded" in failed.stderr
    assert daemon.must("ps", "-aq", "--filter", "name=more") == ""
    # Existing containers go on, and removing a container makes room again.
    daemon.must("start", "full")
    daemon.must("wait", "full")
    daemon.must("rm", "full")
    daemon.must("create", "--name", "more", "busybox")


def test_an_invalid_size(daemon: Daemon) -> None:
    daemon.stop()
    assert "--storage-quota: invalid size: 'much'" in daemon.refusal("--storage-quota", "much")
