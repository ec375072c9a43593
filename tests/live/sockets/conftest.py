"""A vchd whose API sockets are scoped by default, with an image of Debian's packages. These tests are the lane `make test-sockets`."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.apps.images import App, imported
from tests.live.daemon import Daemon, running_daemon
from tests.live.echo import Echo

TOOLS = App(
    "tools:12",
    ("curl", "docker.io", "iproute2", "nginx-light", "openssh-client", "python3"),
    ('CMD ["bash"]',),
    # Of Debian's package only the docker command is needed.
    hooks=("rm -f /usr/sbin/dockerd /usr/sbin/runc /usr/bin/containerd* /usr/bin/ctr",),
)


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    if not os.environ.get("VCH_TEST_SOCKETS"):
        pytest.skip("takes minutes without KVM: `make test-sockets`")
    if os.geteuid():
        pytest.skip("needs the rights of root")
    with running_daemon(tmp_path_factory.mktemp("tools"), "--docker-socket-default", "scoped") as daemon:
        imported(daemon, TOOLS)
        yield daemon


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    server = Echo(tmp_path / "echo")
    yield server
    server.close()
