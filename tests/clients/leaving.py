"""A client of testcontainers that makes a container, a network and a volume, says so, and waits until it is killed.

It needs nothing else of this tree: tests copy it into a container.
"""

import signal

import docker
from testcontainers.core.container import DockerContainer
from testcontainers.core.labels import create_labels
from testcontainers.core.network import Network


def main() -> None:
    network = Network().create()
    docker.from_env().volumes.create("left", labels=create_labels("busybox", {}))
    container = DockerContainer("busybox").with_command("sleep 1000").with_network(network)
    container.with_volume_mapping("left", "/v", "rw").start()
    print("ready", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
