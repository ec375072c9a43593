"""Container networks (--container-network), shared with other hosts: addresses, names, firewall levels."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import Daemon, on_qemu, running_daemon
from tests.live.lan import GATEWAY, NAME, PORT, SUBNET, Neighbour, running_lan
from tests.live.waiting import until

pytestmark = [
    pytest.mark.live,
    on_qemu,
    pytest.mark.skipif(os.geteuid() != 0, reason="bridges need the rights of root"),
]

_SERVE = "mkdir -p /www; echo served > /www/index.html; httpd -p 80 -h /www; exec httpd -f -p 81 -h /www"
_LEVELS = {"closed": 16, "outbound": 24, "peers": 32, "published": 40, "open": 48}


def _setting(level: str, first: int) -> str:
    where = (
        f"bridge=lan,subnet={SUBNET},gateway={GATEWAY},dns={GATEWAY},range=198.51.100.{first}-198.51.100.{first + 7}"
    )
    return f"name={level},{where},firewall={level}"


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Neighbour]]:
    folder = tmp_path_factory.mktemp("lan")
    daemon = Daemon(folder)
    with running_lan(daemon.namespace, "lan", folder) as neighbour:
        for level, first in _LEVELS.items():
            daemon.flags += ["--container-network", _setting(level, first)]
        daemon.flags += ["--container-network", "name=dhcp,bridge=lan"]
        try:
            daemon.start()
            daemon.load_busybox()
            yield daemon, neighbour
        finally:
            daemon.close()


@pytest.fixture
def daemon(lan: tuple[Daemon, Neighbour]) -> Iterator[Daemon]:
    yield lan[0]
    for container in lan[0].docker("ps", "-aq").stdout.split():
        lan[0].docker("rm", "-f", container)


@pytest.fixture
def neighbour(lan: tuple[Daemon, Neighbour]) -> Neighbour:
    return lan[1]


def _server(daemon: Daemon, name: str, *options: str) -> None:
    daemon.must("run", "-d", "--name", name, *options, "busybox", "sh", "-c", _SERVE)
    until(lambda: daemon.docker("exec", name, "wget", "-qO-", "127.0.0.1:81").returncode == 0)


def _endpoint(daemon: Daemon, name: str, network: str) -> dict[str, object]:
    found = json.loads(daemon.must("inspect", name, "--format", "{{json .NetworkSettings.Networks}}"))
    endpoint: dict[str, object] = found[network]
    return endpoint


def _address(daemon: Daemon, name: str, network: str) -> str:
    return str(_endpoint(daemon, name, network)["IPAddress"])


def _reaches(daemon: Daemon, name: str, address: str, port: int, *, expected: bool = True) -> bool:
    """Whether a page comes. The wait is short if none is expected."""
    seconds = "10" if expected else "2"
    return daemon.docker("exec", name, "timeout", seconds, "wget", "-qO-", f"http://{address}:{port}/").returncode == 0


def test_container_networks_are_listed_and_cannot_be_changed(daemon: Daemon) -> None:
    listed = daemon.must("network", "ls", "--filter", "driver=external", "--format", "{{.Name}}").split()
    assert sorted(listed) == ["closed", "dhcp", "open", "outbound", "peers", "published"]
    network = json.loads(daemon.must("network", "inspect", "published"))[0]
    assert network["IPAM"]["Config"] == [
        {"Subnet": SUBNET, "IPRange": "198.51.100.40-198.51.100.47", "Gateway": GATEWAY}
    ]
    assert network["Options"] == {"vch.network": "lan", "vch.firewall": "published", "vch.dns": GATEWAY}
    assert (
        "published is a pre-defined network and cannot be removed" in daemon.docker("network", "rm", "published").stderr
    )
    daemon.must("network", "prune", "-f")
    assert "dhcp" in daemon.must("network", "ls", "--format", "{{.Name}}").split()
    refused = daemon.docker("network", "create", "-d", "external", "more").stderr
    assert "external networks come from the settings of vchd: --container-network" in refused
    assert "network with name open already exists" in daemon.docker("network", "create", "open").stderr
    refused = daemon.docker("network", "create", "--subnet", "198.51.100.128/25", "more").stderr
    assert "Pool overlaps with other one on this address space" in refused


def test_a_container_is_a_neighbour_among_others(daemon: Daemon, neighbour: Neighbour) -> None:
    _server(daemon, "one", "--network", "open")
    endpoint, address = _endpoint(daemon, "one", "open"), _address(daemon, "one", "open")
    assert 48 <= int(address.removeprefix("198.51.100.")) < 56
    assert (endpoint["Gateway"], endpoint["IPPrefixLen"]) == (GATEWAY, 24)
    assert neighbour.fetch(address, 81) == "served"
    # The container has its own address and route on the network, and resolves the network's names.
    assert daemon.must("exec", "one", "wget", "-qO-", f"http://{NAME}:{PORT}/") == address
    assert daemon.must("exec", "one", "ip", "route").splitlines()[0].startswith(f"default via {GATEWAY} dev eth0")
    wanted = "198.51.100.55"
    assert (
        daemon.must("run", "--rm", "--network", "open", "--ip", wanted, "busybox", "wget", "-qO-", f"{GATEWAY}:{PORT}")
        == wanted
    )
    # The host takes no part: no NAT, and no bridge of ours.
    assert daemon.run_inside("ip", "-o", "addr", "show", "dev", "lan").count("inet ") == 0


@pytest.mark.parametrize(
    ("level", "published", "unpublished", "out"),
    [
        ("open", True, True, True),
        ("published", True, False, True),
        ("outbound", False, False, True),
        ("peers", False, False, False),
        ("closed", False, False, False),
    ],
)
def test_firewall_levels(
    daemon: Daemon, neighbour: Neighbour, level: str, published: bool, unpublished: bool, out: bool
) -> None:
    _server(daemon, "gate", "--network", level, "-p", "80")
    address = _address(daemon, "gate", level)
    assert (neighbour.fetch(address, 80, served=published) == "served") == published
    assert (neighbour.fetch(address, 81, served=unpublished) == "served") == unpublished
    assert _reaches(daemon, "gate", GATEWAY, PORT, expected=out) == out
    # Another container of ours on the same network.
    daemon.must("run", "-d", "--name", "peer", "--network", level, "busybox", "sleep", "1000")
    for port, expected in ((80, level in ("open", "published", "peers")), (81, level in ("open", "peers"))):
        assert _reaches(daemon, "peer", address, port, expected=expected) == expected


def test_ports_are_the_containers_own(daemon: Daemon, neighbour: Neighbour) -> None:
    _server(daemon, "own", "--network", "published", "-p", "80:80", "-p", "8000-8002:8000-8002")
    address = _address(daemon, "own", "published")
    assert daemon.must("port", "own", "80").strip() == f"{address}:80"
    assert neighbour.fetch(address, 80) == "served"
    # The port is not open on the host.
    assert ":80 " not in daemon.run_inside("ss", "-tln")
    for wrong in ("8080:80", "127.0.0.1:80:80"):
        refused = daemon.docker("run", "--rm", "--network", "published", "-p", wrong, "busybox", "true")
        assert "port 80/tcp is published at this address and with this number only" in refused.stderr
    daemon.kill()
    daemon.start()
    assert daemon.must("port", "own", "80").strip() == f"{address}:80"
    assert neighbour.fetch(address, 80) == "served"
    assert _reaches(daemon, "own", GATEWAY, PORT)
    # Another container does not get the address.
    another = daemon.must("run", "--rm", "--network", "published", "busybox", "ip", "-4", "addr", "show", "eth0")
    assert "198.51.100." in another
    assert f"{address}/" not in another


def test_dhcp(daemon: Daemon, neighbour: Neighbour) -> None:
    _server(daemon, "leased", "--network", "dhcp", "-p", "80", "--hostname", "leased")
    address = _address(daemon, "leased", "dhcp")
    assert 128 <= int(address.rpartition(".")[2]) < 160
    assert neighbour.fetch(address, 80) == "served"
    assert neighbour.fetch(address, 81, served=False) == ""
    assert daemon.must("port", "leased", "80").strip() == f"{address}:80"
    assert daemon.must("exec", "leased", "cat", "/etc/resolv.conf").splitlines() == [
        f"nameserver {GATEWAY}",
        "search lan.example",
    ]
    assert f"{address}\tleased" in daemon.must("exec", "leased", "cat", "/etc/hosts")
    assert daemon.must("exec", "leased", "wget", "-qO-", f"http://printer:{PORT}/") == address
    daemon.kill()
    daemon.start()
    until(lambda: _address(daemon, "leased", "dhcp") == address)
    # The address is set when the process starts.
    assert daemon.must(
        "run", "--rm", "--network", "dhcp", "busybox", "wget", "-qO-", f"http://{NAME}:{PORT}/"
    ).startswith("198.51.100.1")


def test_connect_and_disconnect_a_running_container(daemon: Daemon, neighbour: Neighbour) -> None:
    _server(daemon, "guest", "-p", "80")
    published = daemon.must("port", "guest", "80").splitlines()
    for network in ("published", "dhcp"):
        daemon.must("network", "connect", network, "guest")
        address = _address(daemon, "guest", network)
        assert neighbour.fetch(address, 80) == "served"
        assert neighbour.fetch(address, 81, served=False) == ""
        # Ports published on the host still reach the container.
        assert daemon.must("port", "guest", "80").splitlines() == published
        daemon.must("network", "disconnect", network, "guest")
        assert neighbour.fetch(address, 80, served=False) == ""
    # No rule is left behind.
    daemon.must("network", "create", "mine")
    daemon.must("network", "connect", "mine", "guest")
    _server(daemon, "asker", "--network", "mine")
    assert _reaches(daemon, "asker", "guest", 81)
    daemon.must("rm", "-f", "asker", "guest")
    daemon.must("network", "rm", "mine")


def test_names_of_a_user_defined_network_beside_a_container_network(daemon: Daemon) -> None:
    daemon.must("network", "create", "app")
    _server(daemon, "db", "--network", "app")
    daemon.must("create", "--name", "web", "--network", "app", "busybox", "sleep", "1000")
    daemon.must("network", "connect", "open", "web")
    daemon.must("start", "web")
    assert _reaches(daemon, "web", "db", 81)
    assert _reaches(daemon, "web", GATEWAY, PORT)
    daemon.must("rm", "-f", "db", "web")
    daemon.must("network", "rm", "app")


def test_no_dhcp_server_answers(daemon: Daemon, neighbour: Neighbour) -> None:
    neighbour.run("ip", "link", "set", "eth0", "down")
    try:
        done = daemon.docker("run", "--name", "alone", "--network", "dhcp", "busybox", "true", timeout=120)
    finally:
        neighbour.run("ip", "link", "set", "eth0", "up")
    assert done.returncode == 125
    assert "network eth0: no DHCP server answers" in done.stderr
    assert daemon.must("inspect", "alone", "--format", "{{.State.Status}}").strip() == "created"


def test_invalid_settings(tmp_path_factory: pytest.TempPathFactory) -> None:
    daemon = Daemon(tmp_path_factory.mktemp("wrong"))
    for setting, said in (
        ("name=lan,bridge=nowhere", "this host has no bridge nowhere"),
        ("name=bridge,bridge=lan", "there is another network of that name"),
        ("name=lan,bridge=lan,firewall=ajar", "firewall=ajar is not one of closed, outbound, peers, published, open"),
        ("name=lan,bridge=lan,firewall=peers", "firewall=peers needs subnet"),
        ("name=lan,bridge=lan,gateway=198.51.100.1", "gateway needs subnet"),
        ("name=lan,bridge=lan,subnet=198.51.100.0/24,gateway=203.0.113.1", "203.0.113.1 is not in 198.51.100.0/24"),
        ("name=lan,bridge=lan,subnet=198.51.100.0/24,range=198.51.100.9-198.51.100.3", "is empty"),
        ("name=lan,bridge=lan,mtu=9000", "'mtu=9000' is not one of name=..."),
        ("bridge=lan", "name=NAME and portgroup=PORTGROUP"),
    ):
        assert said in daemon.refusal("--container-network", setting)
    daemon.close()


def test_a_network_that_is_removed_from_the_settings(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        subprocess.run([*daemon.inside(), "ip", "link", "add", "lan", "type", "bridge"], check=True)
        daemon.stop()
        daemon.start("--container-network", f"name=lan,bridge=lan,subnet={SUBNET}")
        assert "lan" in daemon.must("network", "ls", "--format", "{{.Name}}").split()
        daemon.must("run", "-d", "--name", "stays", "--network", "lan", "busybox", "sleep", "1000")
        daemon.stop()
        daemon.start()
        assert "lan" not in daemon.must("network", "ls", "--format", "{{.Name}}").split()
        assert daemon.must("exec", "stays", "echo", "here") == "here\n"
        daemon.must("stop", "-t", "0", "stays")
        assert "network lan not found" in daemon.docker("start", "stays").stderr
