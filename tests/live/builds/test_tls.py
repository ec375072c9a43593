"""Build clients on a port with TLS."""

import shutil
from pathlib import Path

from tests.live import gotools
from tests.live.builds.conftest import in_lane
from tests.live.builds.native import build_daemon
from tests.live.certificates import Authority
from tests.live.programs import free_port


@in_lane
def test_builds_by_tls_with_and_without_the_upgrade(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    port, server, client = free_port(), authority.sign("/CN=server", "127.0.0.1"), authority.sign("/CN=alice")
    files = tmp_path / "files"
    files.mkdir()
    for name, source in zip(("ca.pem", "cert.pem", "key.pem"), (authority.certificate, *client), strict=True):
        shutil.copy(source, files / name)
    secured = ["--tlsverify", f"--tlscacert={authority.certificate}", f"--tlscert={server[0]}", f"--tlskey={server[1]}"]
    root = tmp_path / "daemon"
    root.mkdir()
    with build_daemon(root, flags=["-H", f"tcp://127.0.0.1:{port}", *secured]) as builds:
        context = builds.context("FROM busybox\nRUN echo by TLS > /made\n", {"large": bytes(20 << 20)})
        settings = [f"DOCKER_HOST=tcp://127.0.0.1:{port}", "DOCKER_TLS_VERIFY=1", f"DOCKER_CERT_PATH={files}"]
        builds.run("env", *settings, str(gotools.buildx()), "build", "-t", "secured", str(context))
        assert builds.daemon.must("images", "-q", "secured")
        keys = [f"--tlscacert={files}/ca.pem", f"--tlscert={files}/cert.pem", f"--tlskey={files}/key.pem"]
        workers, _ = builds.run(str(gotools.buildctl()), "--addr", f"tcp://127.0.0.1:{port}", *keys, "debug", "workers")
        assert "linux/amd64" in workers
