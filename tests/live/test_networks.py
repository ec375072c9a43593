"""Networks with real machines: bridges, names, isolation, published ports, NICs that come and go."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.live.daemon import HYPERVISOR, Daemon, on_qemu, running_daemon
from tests.live.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="bridges need the rights of root")

_SERVE = "mkdir -p /www; echo {text} > /www/index.html; exec httpd -f -p {port} -h /www"
_WORLD = "10.77.0.2"
_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write((sys.argv[3] + "\\n").encode())
    def log_message(self, *_): pass
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


class Network:
    """A daemon whose namespace has a neighbour outside, with a web server that names its client."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.world = f"{daemon.namespace}-w"
        self._run("ip", "netns", "add", self.world)
        self._run(
            "ip",
            "-n",
            daemon.namespace,
            "link",
            "add",
            "out",
            "type",
            "veth",
            "peer",
            "name",
            "in",
            "netns",
            self.world,
        )
        for where, device, address in ((daemon.namespace, "out", "10.77.0.1/24"), (self.world, "in", f"{_WORLD}/24")):
            self._run("ip", "-n", where, "addr", "add", address, "dev", device)
            self._run("ip", "-n", where, "link", "set", device, "up")
        self._run("ip", "-n", self.world, "link", "set", "lo", "up")
        self._server = subprocess.Popen(
            ["ip", "netns", "exec", self.world, "python3", "-c", _SERVER, _WORLD, "8000", "world"]
        )

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True)

    def close(self) -> None:
        self._server.kill()
        self._server.wait()
        self._run("ip", "netns", "delete", self.world)

    def from_world(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["ip", "netns", "exec", self.world, *command], capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("networks")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def outside(daemon: Daemon) -> Iterator[Network]:
    network = Network(daemon)
    yield network
    network.close()


@pytest.fixture(autouse=True)
def clean(daemon: Daemon) -> Iterator[None]:
    yield
    for container in daemon.docker("ps", "-aq").stdout.split():
        daemon.docker("rm", "-f", container)
    daemon.docker("network", "prune", "-f")


def _server(daemon: Daemon, name: str, *options: str, port: int = 80, text: str = "") -> None:
    """Start a container that serves its own name; return when it answers."""
    command = _SERVE.format(text=text or name, port=port)
    daemon.must("run", "-d", "--name", name, *options, "busybox", "sh", "-c", command)
    until(lambda: daemon.docker("exec", name, "wget", "-qO-", f"127.0.0.1:{port}").returncode == 0)


def _curl(daemon: Daemon, url: str) -> str:
    return daemon.run_inside("curl", "-s", "-m", "5", url, check=False).strip()


def _inspect(daemon: Daemon, name: str, template: str) -> str:
    return daemon.must("inspect", "-f", template, name).strip()


# -- rows -------------------------------------------------------------------------------------------------------------


def test_network_list(daemon: Daemon) -> None:
    daemon.must("network", "create", "--label", "a=b", "listed")
    rows = {row.split()[1]: row.split()[2:] for row in daemon.must("network", "ls", "--no-trunc").splitlines()[1:]}
    assert rows == {
        "bridge": ["bridge", "local"],
        "host": ["host", "local"],
        "none": ["null", "local"],
        "listed": ["bridge", "local"],
    }
    assert daemon.must("network", "ls", "-q", "--filter", "type=custom", "--filter", "label=a").split()
    assert not daemon.must("network", "ls", "-q", "--filter", "driver=null", "--filter", "type=custom").split()
    assert "invalid filter" in daemon.docker("network", "ls", "--filter", "nonsense=1").stderr


@on_qemu
def test_network_create_and_inspect(daemon: Daemon) -> None:
    made = daemon.must(
        "network",
        "create",
        "--subnet",
        "10.50.0.0/24",
        "--ip-range",
        "10.50.0.128/25",
        "--gateway",
        "10.50.0.9",
        "--aux-address",
        "printer=10.50.0.129",
        "--label",
        "x=y",
        "-o",
        "com.docker.network.driver.mtu=1400",
        "full",
    ).strip()
    found = json.loads(daemon.must("network", "inspect", made[:12]))[0]
    assert (found["Name"], found["Id"], found["Labels"], found["Options"]) == (
        "full",
        made,
        {"x": "y"},
        {"com.docker.network.driver.mtu": "1400"},
    )
    assert found["IPAM"]["Config"] == [
        {
            "Subnet": "10.50.0.0/24",
            "IPRange": "10.50.0.128/25",
            "Gateway": "10.50.0.9",
            "AuxiliaryAddresses": {"printer": "10.50.0.129"},
        }
    ]
    said = daemon.shell("--network", "full", "ip -o a show eth0; cat /sys/class/net/eth0/mtu; ip r").stdout
    # The first address of the range is free, since the gateway is outside of it.
    assert "inet 10.50.0.128/24" in said
    assert "default via 10.50.0.9" in said
    assert "\n1400\n" in said


def test_network_connect_and_disconnect(daemon: Daemon) -> None:
    daemon.must("network", "create", "--subnet", "10.60.0.0/24", "second")
    daemon.must("run", "-d", "--name", "moves", "busybox", "sleep", "1000")
    daemon.must("network", "connect", "--ip", "10.60.0.77", "--alias", "known", "second", "moves")
    said = daemon.must("exec", "moves", "sh", "-c", "ip -o -4 a; ip r; cat /etc/hosts")
    assert re.search(r"eth1 +inet 10.60.0.77/24", said)
    assert said.count("default via") == 1
    assert "default via 172.17.0.1" in said
    assert "10.60.0.77\t" in said
    members = json.loads(daemon.must("network", "inspect", "second"))[0]["Containers"]
    assert [member["IPv4Address"] for member in members.values()] == ["10.60.0.77/24"]
    assert "Address: 10.60.0.77" in daemon.shell("--network", "second", "nslookup known").stdout
    again = daemon.docker("network", "connect", "second", "moves")
    assert "endpoint with name moves already exists in network second" in again.stderr
    daemon.must("network", "disconnect", "bridge", "moves")
    said = daemon.must("exec", "moves", "sh", "-c", "ip -o -4 a; ip r")
    assert "eth0" not in said
    assert "default via 10.60.0.1" in said
    daemon.must("network", "disconnect", "second", "moves")
    # At once if the guest releases the NIC first; hosts of the simulator follow later.
    until(lambda: daemon.must("exec", "moves", "ls", "/sys/class/net").split() == ["lo"])
    assert "is not connected to network second" in daemon.docker("network", "disconnect", "second", "moves").stderr
    daemon.must("network", "connect", "bridge", "moves")
    assert daemon.must("exec", "moves", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    daemon.must("restart", "-t", "0", "moves")
    assert _inspect(daemon, "moves", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}") == "bridge"


def test_network_connect_of_a_created_container(daemon: Daemon) -> None:
    daemon.must("network", "create", "later")
    daemon.must("create", "--name", "waits", "busybox", "ls", "/sys/class/net")
    daemon.must("network", "connect", "later", "waits")
    assert daemon.must("start", "-a", "waits").split() == ["eth0", "eth1", "lo"]
    daemon.must("network", "disconnect", "later", "waits")
    assert daemon.must("start", "-a", "waits").split() == ["eth0", "lo"]


@on_qemu
def test_network_remove_and_prune(daemon: Daemon) -> None:
    for name in ("used", "unused"):
        daemon.must("network", "create", name)
    daemon.must("run", "-d", "--name", "user", "--network", "used", "busybox", "sleep", "1000")
    assert "has active endpoints" in daemon.docker("network", "rm", "used").stderr
    assert "is a pre-defined network and cannot be removed" in daemon.docker("network", "rm", "bridge").stderr
    assert "unused" in daemon.must("network", "prune", "-f")
    bridges = daemon.run_inside("ip", "-br", "link", "show", "type", "bridge")
    assert len(bridges.splitlines()) == 2
    daemon.must("rm", "-f", "user")
    daemon.must("network", "rm", "used")
    assert "network used not found" in daemon.docker("network", "inspect", "used").stderr
    assert len(daemon.run_inside("ip", "-br", "link", "show", "type", "bridge").splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--subnet", "172.17.5.0/24", "x1"), "Pool overlaps with other one on this address space"),
        (("--subnet", "10.1.0.0/33", "x1"), "invalid"),
        (("--subnet", "10.1.0.0/24", "--gateway", "10.2.0.1", "x1"), "no matching subnet for gateway 10.2.0.1"),
        (("--driver", "macvlan", "x1"), "plugin"),
        (("--driver", "overlay", "x1"), "not a swarm manager"),
        (("bridge",), "network with name bridge already exists"),
        pytest.param(
            ("-o", "com.docker.network.bridge.name=lo", "x1"),
            "bridge name lo belongs to a network device of the host",
            marks=on_qemu,
        ),
        (("-o", "com.docker.network.bridge.nonsense=1", "x1"), "com.docker.network.bridge.nonsense is not supported"),
        ((" ",), "invalid network name"),
    ],
)
def test_network_create_refused(daemon: Daemon, arguments: tuple[str, ...], text: str) -> None:
    done = daemon.docker("network", "create", *arguments)
    assert done.returncode
    assert text in done.stderr
    assert len(daemon.must("network", "ls", "-q").split()) == 3


def test_two_networks_of_one_name(daemon: Daemon) -> None:
    """API versions before 1.44 allow two networks of one name; the name alone is then ambiguous."""
    with contextlib.closing(docker.DockerClient(daemon.host, version="1.43")) as client:
        first = client.api.create_network("twin", labels={"number": "1"})
        second = client.api.create_network("twin", labels={"number": "2"})
        assert second["Warning"] == f"Network with name twin (id : {first['Id']}) already exists"
        with pytest.raises(docker.errors.APIError, match="network with name twin already exists"):
            client.api.create_network("twin", check_duplicate=True)
        with pytest.raises(docker.errors.APIError, match="network with name bridge already exists"):
            client.api.create_network("bridge")
    refused = daemon.docker("network", "create", "twin").stderr
    assert "network with name twin already exists" in refused
    for arguments in (("inspect", "twin"), ("rm", "twin")):
        refused = daemon.docker("network", *arguments).stderr
        assert "network twin is ambiguous (2 matches found on name)" in refused
    refused = daemon.docker("create", "--network", "twin", "busybox").stderr
    assert "network twin is ambiguous (2 matches found on name)" in refused
    daemon.must("run", "-d", "--name", "inside", "--network", second["Id"], "busybox", "sleep", "1000")
    assert daemon.must("ps", "-q", "--filter", f"network={first['Id']}") == ""
    assert daemon.must("ps", "--format", "{{.Names}}", "--filter", f"network={second['Id']}") == "inside\n"
    assert _inspect(daemon, "inside", "{{.NetworkSettings.Networks.twin.NetworkID}}") == second["Id"]
    refused = daemon.docker("network", "connect", first["Id"], "inside").stderr
    assert "already exists in network twin" in refused
    refused = daemon.docker("network", "disconnect", first["Id"], "inside").stderr
    assert "is not connected to network twin" in refused
    daemon.kill()
    daemon.start()
    daemon.must("restart", "-t", "0", "inside")
    assert _inspect(daemon, "inside", "{{.NetworkSettings.Networks.twin.NetworkID}}") == second["Id"]
    daemon.must("network", "rm", first["Id"])
    assert _inspect(daemon, "inside", "{{.NetworkSettings.Networks.twin.NetworkID}}") == second["Id"]


def test_the_address_pools_can_run_out(daemon: Daemon) -> None:
    made = 0
    while (done := daemon.docker("network", "create", f"pool{made}")).returncode == 0:
        made += 1
        assert made < 40
    assert "all predefined address pools have been fully subnetted" in done.stderr
    assert made == 30
    daemon.must("network", "prune", "-f")
    daemon.must("network", "create", "pool")


def test_a_network_can_be_full(daemon: Daemon) -> None:
    daemon.must("network", "create", "--subnet", "10.70.0.0/30", "tiny")
    daemon.must("run", "-d", "--name", "only", "--network", "tiny", "busybox", "sleep", "1000")
    done = daemon.shell("--network", "tiny", "true")
    assert done.returncode == 125
    assert "no available IPv4 addresses on this network's address pools" in done.stderr
    daemon.must("rm", "-f", "only")
    assert daemon.shell("--network", "tiny", "true").returncode == 0


# -- names ------------------------------------------------------------------------------------------------------------


def test_names_aliases_and_renames(daemon: Daemon) -> None:
    daemon.must("network", "create", "named")
    daemon.must(
        "run", "-d", "--name", "first", "--network", "named", "--network-alias", "both", "busybox", "sleep", "1000"
    )
    daemon.must(
        "run", "-d", "--name", "second", "--network", "named", "--network-alias", "both", "busybox", "sleep", "1000"
    )
    one, two = (_inspect(daemon, name, "{{.NetworkSettings.Networks.named.IPAddress}}") for name in ("first", "second"))
    short = daemon.must("ps", "-q", "--filter", "name=second").strip()
    said = daemon.must(
        "exec",
        "first",
        "sh",
        "-c",
        f"nslookup second; nslookup {short}; nslookup second.named; nslookup -type=aaaa second",
    )
    assert said.count(f"Address: {two}") == 3
    both = daemon.must("exec", "first", "nslookup", "both")
    assert {one, two} <= set(re.findall(r"Address: (\S+)", both))
    daemon.must("rename", "second", "renamed")
    assert f"Address: {two}" in daemon.must("exec", "first", "nslookup", "renamed")
    gone = daemon.docker("exec", "first", "nslookup", "second")
    assert gone.returncode
    reverse = daemon.must("exec", "first", "nslookup", two)
    assert "renamed.named" in reverse
    host = daemon.must("exec", "first", "nslookup", "host.docker.internal")
    gateway = json.loads(daemon.must("network", "inspect", "named"))[0]["IPAM"]["Config"][0]["Gateway"]
    assert f"Address: {gateway}\n" in host


def test_the_default_network_resolves_only_links(daemon: Daemon) -> None:
    daemon.must("run", "-d", "--name", "database", "--expose", "5432", "-e", "SECRET=s", "busybox", "sleep", "1000")
    assert daemon.shell("nslookup database").returncode
    address = _inspect(daemon, "database", "{{.NetworkSettings.IPAddress}}")
    health = ("--health-cmd=echo $DB_PORT", "--health-interval=1s")
    daemon.must("run", "-d", "--name", "linked", "--link", "database:db", *health, "busybox", "sleep", "1000")
    script = "ping -c1 db | grep from; grep db /etc/hosts; echo; env; echo; tr '\\0' '\\n' < /proc/1/environ"
    said, own, first = daemon.must("exec", "linked", "sh", "-c", script).split("\n\n")
    assert f"from {address}" in said
    assert f"{address}\tdb " in said
    for line in (f"DB_PORT=tcp://{address}:5432", f"DB_PORT_5432_TCP_ADDR={address}", "DB_ENV_SECRET=s"):
        assert line in own.splitlines()
        assert line in first.splitlines()
    until(lambda: f"tcp://{address}:5432" in _inspect(daemon, "linked", "{{json .State.Health.Log}}"))
    daemon.must("stop", "-t", "0", "database")
    assert "Cannot link to a non running container" in daemon.shell("--link", "database:db", "true").stderr


def test_upstream_names_go_to_the_servers_that_were_given(daemon: Daemon) -> None:
    daemon.must("network", "create", "asks")
    answer = subprocess.Popen([*daemon.inside(), sys.executable, "-c", _UPSTREAM], stdout=subprocess.PIPE, text=True)
    try:
        assert answer.stdout is not None
        assert answer.stdout.readline() == "ready\n"
        said = daemon.shell(
            "--network",
            "asks",
            "--dns",
            "127.0.0.5",
            "--dns-search",
            "example.org",
            "nslookup far; cat /etc/resolv.conf",
        )
        assert "Address: 192.0.2.7" in said.stdout
        assert "search example.org" in said.stdout
        daemon.must("network", "create", "--internal", "closed")
        assert daemon.shell("--network", "closed", "--dns", "127.0.0.5", "nslookup far").returncode
    finally:
        answer.kill()
        answer.communicate()


_UPSTREAM = """
import socket, dnslib
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); server.bind(("127.0.0.5", 53)); print("ready", flush=True)
while True:
    data, peer = server.recvfrom(4096)
    query = dnslib.DNSRecord.parse(data); reply = query.reply()
    if query.q.qtype == 1:
        reply.add_answer(dnslib.RR(query.q.qname, 1, rdata=dnslib.A("192.0.2.7"), ttl=1))
    server.sendto(reply.pack(), peer)
"""


# -- isolation ----------------------------------------------------------------------------------------------------------


def test_networks_do_not_reach_each_other(daemon: Daemon) -> None:
    for name in ("left", "right"):
        daemon.must("network", "create", name)
    _server(daemon, "target", "--network", "right")
    address = _inspect(daemon, "target", "{{.NetworkSettings.Networks.right.IPAddress}}")
    assert daemon.shell("--network", "right", f"timeout 3 wget -qO- {address}").stdout == "target\n"
    blocked = daemon.shell(
        "--network", "left", f"ping -c1 -W2 {address} || timeout 2 wget -qO- {address} || echo blocked"
    )
    assert blocked.stdout.endswith("blocked\n")
    # A route that declares the other subnet on-link does not help either.
    sneaky = daemon.shell(
        "--network",
        "left",
        "--privileged",
        f"ip r add {address}/32 dev eth0; ping -c1 -W2 {address} || echo blocked",
    )
    assert sneaky.stdout.endswith("blocked\n")


def test_containers_reach_the_world_and_the_world_does_not_reach_them(daemon: Daemon, outside: Network) -> None:
    _server(daemon, "inner")
    address = _inspect(daemon, "inner", "{{.NetworkSettings.IPAddress}}")
    assert "world" in daemon.shell(f"timeout 5 wget -qO- {_WORLD}:8000").stdout
    subprocess.run(["ip", "-n", outside.world, "route", "add", "172.17.0.0/16", "via", "10.77.0.1"], check=True)
    assert outside.from_world("curl", "-s", "-m", "2", f"http://{address}/").returncode
    assert outside.from_world("curl", "-s", "-m", "2", "http://10.77.0.1/").returncode


def test_an_internal_network_cannot_leave(daemon: Daemon, outside: Network) -> None:
    daemon.must("network", "create", "--internal", "cell")
    daemon.must("run", "-d", "--name", "mate", "--network", "cell", "busybox", "sleep", "1000")
    said = daemon.shell(
        "--network",
        "cell",
        f"ping -c1 mate >/dev/null && echo mate; ip r; ping -c1 -W2 {_WORLD} || echo blocked",
    )
    assert said.stdout.startswith("mate\n")
    assert "default" not in said.stdout
    assert said.stdout.endswith("blocked\n")
    forced = daemon.shell(
        "--network",
        "cell",
        "--privileged",
        f"ip r add default via $(ip r | sed 's/0.0\\/.*/0.1/'); timeout 3 wget -qO- {_WORLD}:8000 || echo blocked",
    )
    assert forced.stdout.endswith("blocked\n")


def test_the_loopback_of_the_host_is_out_of_reach(daemon: Daemon) -> None:
    server = subprocess.Popen([*daemon.inside(), "python3", "-c", _SERVER, "127.0.0.1", "9999", "secret"])
    try:
        until(lambda: _curl(daemon, "http://127.0.0.1:9999/") == "secret")
        said = daemon.shell(
            "--privileged",
            "ip a del 127.0.0.1/8 dev lo; ip r del 127.0.0.0/8 table local; echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; "
            "ip r add 127.0.0.1/32 via 172.17.0.1; timeout 3 wget -qO- 127.0.0.1:9999; echo done",
        )
        assert "secret" not in said.stdout
        assert said.stdout.endswith("done\n")
    finally:
        server.kill()
        server.wait()


@on_qemu
def test_without_icc_containers_cannot_reach_each_other(daemon: Daemon) -> None:
    daemon.must("network", "create", "-o", "com.docker.network.bridge.enable_icc=false", "shy")
    daemon.must("run", "-d", "--name", "hermit", "--network", "shy", "busybox", "sleep", "1000")
    said = daemon.shell(
        "--network",
        "shy",
        "ping -c1 -W2 hermit || echo blocked; ping -c1 -W2 $(ip r | awk '/default/{print $3}') && echo host",
    )
    assert "blocked\n" in said.stdout
    assert said.stdout.endswith("host\n")


# -- addresses ----------------------------------------------------------------------------------------------------------


def test_a_requested_address_and_mac(daemon: Daemon) -> None:
    daemon.must("network", "create", "--subnet", "10.80.0.0/24", "mine")
    options = ("--network", "mine", "--ip", "10.80.0.40", "--mac-address", "02:11:22:33:44:55")
    said = daemon.shell(*options, "ip -o a show eth0; ip link show eth0")
    assert "inet 10.80.0.40/24" in said.stdout
    assert "02:11:22:33:44:55" in said.stdout
    daemon.must("run", "-d", "--name", "has-it", *options, "busybox", "sleep", "1000")
    assert "Address already in use" in daemon.shell(*options, "true").stderr
    outside = daemon.shell("--network", "mine", "--ip", "10.81.0.1", "true")
    assert "no configured subnet contains IP address 10.81.0.1" in outside.stderr
    assert "user configured subnets" in daemon.shell("--ip", "172.17.0.9", "true").stderr


def test_ipv6(daemon: Daemon) -> None:
    daemon.must("network", "create", "--ipv6", "--subnet", "fd12:3456::/64", "six")
    _server(daemon, "v6", "--network", "six", "-p", "8096:80")
    address = _inspect(daemon, "v6", "{{.NetworkSettings.Networks.six.GlobalIPv6Address}}")
    assert address.startswith("fd12:3456::")
    said = daemon.shell("--network", "six", "ping6 -c1 v6; nslookup -type=aaaa v6; ip -6 r").stdout
    assert f"from {address}" in said
    assert "default via fd12:3456::1" in said
    assert _curl(daemon, "http://[fd12:3456::1]:8096/") == "v6"
    # No guest is a router of this host (CVE-2020-13401), or of another guest. On vSphere all networks share one bridge.
    own = "br-" + daemon.must("network", "inspect", "-f", "{{.Id}}", "six")[:12]
    bridge = own if HYPERVISOR == "qemu" else "vch0"
    names = [f"net/ipv6/conf/{bridge}/{name}" for name in ("accept_ra", "autoconf", "accept_redirects")]
    assert daemon.run_inside("sysctl", "-n", *names).split() == ["0", "0", "0"]
    assert "nd-router-advert" in daemon.run_inside("nft", "list", "ruleset", "bridge")


# -- ports --------------------------------------------------------------------------------------------------------------


def test_published_ports(daemon: Daemon, outside: Network) -> None:
    _server(daemon, "web", "-p", "8080:80", "-p", "127.0.0.1:8081:80", "-p", "8100-8110:80", "--expose", "99")
    for url in (
        "127.0.0.1:8080",
        "10.77.0.1:8080",
        "172.17.0.1:8080",
        "[::1]:8080",
        "127.0.0.1:8081",
        "127.0.0.1:8100",
    ):
        assert _curl(daemon, f"http://{url}/") == "web", url
    assert outside.from_world("curl", "-s", "-m", "5", "http://10.77.0.1:8080/").stdout == "web\n"
    assert outside.from_world("curl", "-s", "-m", "2", "http://10.77.0.1:8081/").returncode
    # Hairpin: a container reaches itself and its neighbour by the host's address.
    assert daemon.must("exec", "web", "timeout", "5", "wget", "-qO-", "10.77.0.1:8080") == "web\n"
    assert daemon.shell("timeout 5 wget -qO- 172.17.0.1:8080").stdout == "web\n"
    daemon.must("network", "create", "elsewhere")
    assert daemon.shell("--network", "elsewhere", "timeout 5 wget -qO- 10.77.0.1:8080").stdout == "web\n"
    assert sorted(daemon.must("port", "web", "80").split()) == [
        "0.0.0.0:8080",
        "0.0.0.0:8100",
        "127.0.0.1:8081",
        "[::]:8080",
        "[::]:8100",
    ]
    ports = json.loads(daemon.must("inspect", "web"))[0]["NetworkSettings"]["Ports"]
    assert ports["99/tcp"] is None
    assert {"HostIp": "127.0.0.1", "HostPort": "8081"} in ports["80/tcp"]
    assert "0.0.0.0:8080->80/tcp" in daemon.must("ps", "--format", "{{.Ports}}")
    assert daemon.must("ps", "-q", "--filter", "publish=8080").split()
    daemon.must("stop", "-t", "0", "web")
    assert _curl(daemon, "http://127.0.0.1:8080/") == ""
    assert json.loads(daemon.must("inspect", "web"))[0]["NetworkSettings"]["Ports"] == {}
    daemon.must("start", "web")
    until(lambda: _curl(daemon, "http://127.0.0.1:8080/") == "web")


def test_every_exposed_port_can_be_published(daemon: Daemon) -> None:
    _server(daemon, "all", "-P", "--expose", "80")
    port = daemon.must("port", "all", "80/tcp").split()[0].rpartition(":")[2]
    assert int(port) >= 32768
    assert _curl(daemon, f"http://127.0.0.1:{port}/") == "all"


def test_network_host_publishes_every_listening_port(daemon: Daemon) -> None:
    done = daemon.docker(
        "create",
        "--network",
        "host",
        "--name",
        "hosted",
        "--expose",
        "8086",
        "busybox",
        "sh",
        "-c",
        f"({_SERVE.format(text='hosted', port=8085)}) & nc -l -p 9000 -s 127.0.0.1 & sleep 1000",
    )
    assert "NetworkMode host" in done.stderr
    daemon.must("start", "hosted")
    until(lambda: _curl(daemon, "http://127.0.0.1:8085/") == "hosted")
    ports = json.loads(daemon.must("inspect", "hosted"))[0]["NetworkSettings"]["Ports"]
    # Ports that are only exposed, or listen on loopback only, are not published.
    assert [port for port, places in ports.items() if places] == ["8085/tcp"]
    # The port is published while a process listens.
    daemon.must("exec", "-d", "hosted", "sh", "-c", "nc -l -p 8087 & echo $! > /pid; wait")
    until(lambda: ":8087" in daemon.run_inside("ss", "-ltn"))
    daemon.must("exec", "hosted", "sh", "-c", "kill $(cat /pid)")
    until(lambda: ":8087" not in daemon.run_inside("ss", "-ltn"))
    # A second container waits until the port is free.
    daemon.must(
        "run",
        "-d",
        "--name",
        "second",
        "--network",
        "host",
        "busybox",
        "sh",
        "-c",
        _SERVE.format(text="second", port=8085),
    )
    until(lambda: "port 8085/tcp of container" in daemon.log.read_text())
    assert _curl(daemon, "http://127.0.0.1:8085/") == "hosted"
    daemon.must("rm", "-f", "hosted")
    until(lambda: _curl(daemon, "http://127.0.0.1:8085/") == "second")
    daemon.kill()
    daemon.start()
    assert _curl(daemon, "http://127.0.0.1:8085/") == "second"
    daemon.must("rm", "-f", "second")
    assert ":8085" not in daemon.run_inside("ss", "-ltn")


def test_published_udp(daemon: Daemon) -> None:
    daemon.must("run", "-d", "--name", "nobody", "-p", "5353:53/udp", "busybox", "sleep", "1000")
    # Nothing listens on the port: the ICMP error of the container's kernel reaches the sender.
    ask = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); "
    ask += "s.connect(('127.0.0.1', 5353)); s.send(b'x'); s.recv(1)"
    said = subprocess.run([*daemon.inside(), "python3", "-c", ask], capture_output=True, text=True, check=False)
    assert "ConnectionRefusedError" in said.stderr
    counted = daemon.must("exec", "nobody", "grep", "^Udp:", "/proc/net/snmp").splitlines()[1].split()
    assert counted[2] == "1"  # NoPorts


def test_a_udp_flow_reaches_the_next_container(daemon: Daemon) -> None:
    send = "import socket, time; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('127.0.0.1', 5999))\n"
    send += "while True:\n s.sendto(b'x', ('127.0.0.2', 5354)); time.sleep(0.1)"
    sender = subprocess.Popen([*daemon.inside(), "python3", "-c", send])

    def refused(name: str) -> int:
        return int(daemon.must("exec", name, "grep", "^Udp:", "/proc/net/snmp").splitlines()[1].split()[2])

    try:
        daemon.must("run", "-d", "--name", "before", "-p", "5354:53/udp", "busybox", "sleep", "1000")
        until(lambda: refused("before") > 0)
        daemon.must("create", "--name", "after", "-p", "5354:53/udp", "busybox", "sleep", "1000")
        # Not the container that receives this address next.
        daemon.must("run", "-d", "--name", "between", "busybox", "sleep", "1000")
        daemon.must("kill", "before")
        daemon.must("start", "after")
        until(lambda: refused("after") > 0)
    finally:
        sender.kill()
        sender.wait()


def test_a_port_that_is_in_use(daemon: Daemon) -> None:
    _server(daemon, "has", "-p", "8090:80")
    done = daemon.docker("run", "-d", "--name", "wants", "-p", "8090:80", "busybox", "sleep", "1000")
    assert done.returncode == 125
    assert "driver failed programming external connectivity on endpoint wants" in done.stderr
    assert "Bind for 0.0.0.0:8090 failed: port is already allocated" in done.stderr
    assert _inspect(daemon, "wants", "{{.State.Status}} {{.State.Running}}") == "created false"
    foreign = subprocess.Popen([*daemon.inside(), "python3", "-c", _SERVER, "0.0.0.0", "8091", "foreign"])
    try:
        until(lambda: ":8091" in daemon.run_inside("ss", "-ltn"))
        assert "address already in use" in daemon.shell("-p", "8091:80", "true").stderr
    finally:
        foreign.kill()
        foreign.wait()
    daemon.must("rm", "-f", "has")
    assert daemon.shell("-p", "8090:80", "true").returncode == 0


@on_qemu
def test_a_killed_machine_frees_its_ports(daemon: Daemon) -> None:
    _server(daemon, "victim", "-p", "8095:80")
    identity = _inspect(daemon, "victim", "{{.Id}}")
    machine = json.loads((daemon.root / "exec/machines" / identity / "machine.json").read_text())
    os.kill(machine["pid"], signal.SIGKILL)
    daemon.must("wait", "victim")
    assert daemon.shell("-p", "8095:80", "true").returncode == 0
    assert "vch-" not in "".join(
        line for line in daemon.run_inside("ip", "-br", "link").splitlines() if identity[:6] in line
    )


# -- the daemon's own life ----------------------------------------------------------------------------------------------


def test_networks_outlive_the_daemon(tmp_path: Path) -> None:
    with running_daemon(tmp_path) as daemon:
        daemon.run_inside("nft", "add table ip foreign; add chain ip foreign c; add rule ip foreign c counter")
        daemon.must("network", "create", "--subnet", "10.90.0.0/24", "stays")
        _server(daemon, "web", "--network", "stays", "-p", "8080:80")
        before = daemon.run_inside("nft", "list", "ruleset")
        daemon.kill()
        assert _curl(daemon, "http://127.0.0.1:8080/") == "web"
        daemon.start()
        until(lambda: daemon.docker("exec", "web", "true").returncode == 0)
        assert _curl(daemon, "http://127.0.0.1:8080/") == "web"
        assert daemon.run_inside("nft", "list", "ruleset") == before
        assert "Address: 10.90.0.2" in daemon.shell("--network", "stays", "nslookup web").stdout
        assert "port is already allocated" in daemon.shell("-p", "8080:80", "true").stderr
        daemon.must("network", "disconnect", "stays", "web")
        daemon.must("rm", "-f", "web")
        daemon.stop()
        # Without containers our bridges and rules are gone, and those of others are still there.
        rules = daemon.run_inside("nft", "list", "ruleset")
        assert "vch0" not in rules
        assert "table ip foreign" in rules
        assert daemon.run_inside("ip", "-br", "link", "show", "type", "bridge") == ""
        daemon.run_inside("ip", "link", "add", "br-half", "type", "bridge")
        daemon.run_inside("ip", "link", "set", "br-half", "alias", "vch vch0")
        daemon.run_inside("ip", "link", "add", "br-foreign", "type", "bridge")
        daemon.start()
        assert "stays" in daemon.must("network", "ls")
        bridges = daemon.run_inside("ip", "-br", "link", "show", "type", "bridge")
        assert "br-half" not in bridges
        assert "br-foreign" in bridges


def test_a_bridge_of_another_docker_on_the_host(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    try:
        for command in ("link add docker0 type bridge", "addr add 172.17.0.1/16 dev docker0", "link set docker0 up"):
            daemon.run_inside("ip", *command.split())
        daemon.start()
        found = json.loads(daemon.must("network", "inspect", "bridge"))[0]
        assert found["IPAM"]["Config"] == [{"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}]
        daemon.stop()
        assert "docker0" in daemon.run_inside("ip", "-br", "link")
        daemon.start("--bip", "10.9.8.1/24")
        found = json.loads(daemon.must("network", "inspect", "bridge"))[0]
        assert found["IPAM"]["Config"] == [{"Subnet": "10.9.8.0/24", "Gateway": "10.9.8.1"}]
    finally:
        daemon.close()


@on_qemu
def test_without_bridges(tmp_path: Path) -> None:
    with running_daemon(tmp_path, on_host=True) as daemon:
        done = daemon.docker("network", "create", "x1")
        assert "need bridges, and bridges need the rights of root" in done.stderr
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        for _ in range(2):  # a VM of the pool, if there is a pool, and a VM that is not
            daemon.wait_pool()
            _server(daemon, "web", "-p", f"127.0.0.1:{port}:80")
            assert (
                subprocess.run(["curl", "-s", f"http://127.0.0.1:{port}/"], capture_output=True, check=True).stdout
                == b"web\n"
            )
            assert "port is already allocated" in daemon.shell("-p", f"127.0.0.1:{port}:80", "true").stderr
            daemon.must("rm", "-f", "web")
