"""A swarm of one node: its overlay networks work, services are refused by name, and leaving removes everything."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon

pytestmark = [pytest.mark.live, on_qemu]


@pytest.fixture(scope="module")
def own() -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as name:
        with running_daemon(Path(name)) as daemon:
            daemon.load_busybox()
            yield daemon


@pytest.fixture
def swarm(own: Daemon) -> Iterator[Daemon]:
    own.must("swarm", "init", "--advertise-addr", "127.0.0.1")
    yield own
    own.docker("swarm", "leave", "--force")


def _fails(daemon: Daemon, *arguments: str) -> str:
    done = daemon.docker(*arguments)
    assert done.returncode, done.stdout
    return done.stderr


def test_overlay_networks_need_a_swarm(own: Daemon) -> None:
    assert "This node is not a swarm manager" in _fails(own, "network", "create", "-d", "overlay", "none")
    assert "not part of a swarm" in _fails(own, "swarm", "leave", "--force")
    assert json.loads(own.must("info", "-f", "{{json .Swarm}}"))["LocalNodeState"] == "inactive"


def test_containers_meet_on_an_attachable_overlay(swarm: Daemon) -> None:
    swarm.must("network", "create", "-d", "overlay", "--attachable", "meet")
    (network,) = json.loads(swarm.must("network", "inspect", "meet"))
    assert (network["Scope"], network["Driver"], network["Attachable"]) == ("swarm", "overlay", True)
    # The first subnet of the pool is the ingress network's.
    assert network["IPAM"]["Config"][0]["Subnet"] == "10.0.1.0/24"
    swarm.must("run", "-d", "--name", "here", "--network", "meet", "busybox", "sleep", "1000")
    assert "1 packets received" in swarm.must(
        "run", "--rm", "--network", "meet", "busybox", "ping", "-c1", "-W5", "here"
    )
    assert "has active endpoints" in _fails(swarm, "network", "rm", "meet")
    # Leaving the swarm removes the network of a running container, which goes on.
    swarm.must("swarm", "leave", "--force")
    assert swarm.must("network", "ls", "-q", "-f", "driver=overlay") == ""
    assert json.loads(swarm.must("inspect", "-f", "{{json .NetworkSettings.Networks}}", "here")) == {}
    assert swarm.must("inspect", "-f", "{{.State.Running}}", "here") == "true\n"
    swarm.must("rm", "-f", "here")


def test_a_network_that_is_not_attachable_refuses_containers(swarm: Daemon) -> None:
    swarm.must("network", "create", "-d", "overlay", "closed")
    assert "network closed not manually attachable" in _fails(
        swarm, "run", "--rm", "--network", "closed", "busybox", "true"
    )
    assert "network ingress not manually" in _fails(swarm, "run", "--rm", "--network", "ingress", "busybox", "true")
    assert swarm.must("ps", "-aq") == ""


def test_there_is_one_ingress_network(swarm: Daemon) -> None:
    again = ("network", "create", "-d", "overlay", "--ingress", "other")
    assert "is already present" in _fails(swarm, *again)
    done = swarm.docker("network", "rm", "ingress", stdin=b"y\n")
    assert done.returncode == 0, done.stderr
    swarm.must(*again)
    swarm.must("network", "prune", "-f")
    assert swarm.must("network", "ls", "-f", "scope=swarm", "--format", "{{.Name}}") == "other\n"


def test_the_swarm_survives_a_restart_of_vchd(swarm: Daemon) -> None:
    node = swarm.must("node", "ls", "-q")
    swarm.must("node", "update", "--label-add", "rack=7", "self")
    swarm.must("network", "create", "-d", "overlay", "--attachable", "stays")
    swarm.kill()
    swarm.start()
    assert swarm.must("node", "ls", "-q") == node
    assert swarm.must("node", "inspect", "-f", "{{json .Spec.Labels}}", "self") == '{"rack":"7"}\n'
    assert "stays" in swarm.must("network", "ls", "-f", "driver=overlay")
    assert swarm.must("run", "--rm", "--network", "stays", "busybox", "echo", "on it") == "on it\n"


def test_unsupported_swarm_features_are_refused_by_name(swarm: Daemon) -> None:
    assert "services are not supported" in _fails(swarm, "service", "create", "busybox")
    assert "secrets are not supported" in _fails(swarm, "secret", "create", "name", "/etc/hostname")
    assert "joining a swarm is not supported" in _fails(swarm, "swarm", "join", "--token", "x", "192.0.2.1:2377")
    assert "availability of the only node cannot be changed" in _fails(
        swarm, "node", "update", "--availability", "drain", "self"
    )
    assert "already part of a swarm" in _fails(swarm, "swarm", "init", "--advertise-addr", "127.0.0.1")
    assert "network option encrypted is not supported" in _fails(
        swarm, "network", "create", "-d", "overlay", "-o", "encrypted=true", "secret"
    )
    assert swarm.must("service", "ls", "-q") == ""


def test_addresses_of_a_node(own: Daemon) -> None:
    assert "advertise address must be" in _fails(own, "swarm", "init", "--advertise-addr", "nowhere0")
    assert "could not find the system's IP address" in _fails(own, "swarm", "init")
    assert "invalid default address pool" in _fails(
        own,
        "swarm",
        "init",
        "--advertise-addr",
        "lo",
        "--default-addr-pool",
        "10.9.0.0/24",
        "--default-addr-pool-mask-length",
        "20",
    )
    own.must(
        "swarm",
        "init",
        "--advertise-addr",
        "lo",
        "--default-addr-pool",
        "10.77.0.0/16",
        "--default-addr-pool-mask-length",
        "26",
    )
    own.must("network", "create", "-d", "overlay", "small")
    assert "10.77.0.64/26" in own.must("network", "inspect", "small")
    own.must("swarm", "leave", "--force")
