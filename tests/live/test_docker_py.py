"""docker-py, unmodified."""

import gc
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from tests.live.daemon import Daemon

pytestmark = [
    pytest.mark.live,
    # docker-py leaves sockets of hijacked streams to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    client = docker.DockerClient(base_url=daemon.host, timeout=120)
    yield client
    client.close()
    gc.collect()


def test_run(client: Any) -> None:
    assert client.containers.run("busybox", ["echo", "from python"], remove=True) == b"from python\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo bad >&2; exit 4"], remove=True)
    assert caught.value.exit_status == 4
    # The stubs say str; docker-py gives bytes.
    assert repr(caught.value.stderr) == repr(b"bad\n")


def test_logs_stream_and_attach(client: Any) -> None:
    container = client.containers.create("busybox", ["sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done"])
    attached = container.attach(stream=True, stdout=True, stderr=True)
    container.start()
    assert b"".join(container.logs(stream=True, follow=True)) == b"1\n2\n3\n"
    assert b"".join(attached) == b"1\n2\n3\n"
    assert container.wait()["StatusCode"] == 0
    container.reload()
    assert container.status == "exited"
    container.remove()
    with pytest.raises(docker.errors.NotFound, match="No such container"):
        client.containers.get(container.id)


def test_a_missing_image_is_image_not_found(client: Any) -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        client.images.get("not-here")
    assert client.ping()
    assert client.version()["ApiVersion"] == "1.51"
