"""docker pull through the CLI, from Debian's docker-registry."""

import gzip
import hashlib
import json
from pathlib import Path

import pytest

from tests.live.daemon import Daemon
from tests.live.images import busybox_layer
from tests.live.registry import Pusher, image_manifest, real_registry

pytestmark = pytest.mark.live


def test_pull_run_remove(host_daemon: Daemon, tmp_path: Path) -> None:
    layer = busybox_layer() + bytes(1024)  # not the layer of the busybox that is here already
    diff_id = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "config": {"Entrypoint": ["echo"], "Cmd": ["from a registry"], "Env": ["PATH=/bin"]},
        }
    ).encode()
    with real_registry(tmp_path) as host:
        pusher = Pusher(host, "team/app")
        pushed = pusher.manifest("v1", image_manifest(config, [gzip.compress(layer)], pusher.blob))
        name = f"{host}/team/app:v1"
        output = host_daemon.must("pull", name)
        assert f"Digest: {pushed['digest']}" in output
        assert f"Status: Downloaded newer image for {name}" in output
        assert f"Status: Image is up to date for {name}" in host_daemon.must("pull", name)
        refused = host_daemon.docker("pull", f"{host}/team/app:v2")
        assert refused.returncode == 1
        assert "manifest unknown" in refused.stderr
    digests = host_daemon.must("inspect", name, "--format", "{{.RepoDigests}}")
    assert digests.strip() == f"[{host}/team/app@{pushed['digest']}]"
    assert host_daemon.must("run", "--rm", name) == "from a registry\n"
    assert host_daemon.must("run", "--rm", name, "else") == "else\n"
    assert f"Deleted: {diff_id}" in host_daemon.must("rmi", name)
    missing = host_daemon.docker("pull", name)
    assert missing.returncode == 1
    assert "connect" in missing.stderr.lower()
