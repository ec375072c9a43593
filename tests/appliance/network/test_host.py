"""Bridges, their addresses and the firewall's tables, in a network namespace of the test's own."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs the rights of root")

_PRELUDE = """
import subprocess
import trio
from appliance.errors import *
from appliance.network.host import *
from appliance.network.firewall import Publication
from appliance.network.netlink import Netlink
from appliance.network.network_record import *

def network(name, subnet="10.9.0.0/24", gateway="10.9.0.1", **more):
    return NetworkRecord("id" + name, name, "bridge", 0, [Pool(subnet, gateway=gateway)], bridge=f"br-{name}", **more)

def bridges():
    with Netlink.open() as netlink:
        return {link.name: (link.alias, netlink.addresses(link)) for link in netlink.links() if link.kind == "bridge"}

def shown(name):
    return subprocess.run(["ip", "-o", "link", "show", name], capture_output=True, text=True, check=True).stdout

def fails(kind, call, *arguments, **named):
    try:
        trio.run(lambda: call(*arguments, **named))
    except kind as error:
        return str(error)
    raise AssertionError("no error")

host = BridgedHostNetwork("test0")
"""


def _run(script: str) -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", _PRELUDE + textwrap.dedent(script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_bridge_is_created_found_again_and_removed() -> None:
    _run("""
        one = network("one", options={OPTION_MTU: "1400"})
        trio.run(lambda: host.add(one, new=True))
        trio.run(lambda: host.add(one, new=False))
        alias, addresses = bridges()["br-one"]
        assert alias == "vch test0" and "10.9.0.1/24" in addresses
        assert "mtu 1400" in shown("br-one")
        assert "10.9.0.0/24" in map(str, host.routes())
        trio.run(host.remove, one)
        assert bridges() == {}
    """)


def test_ipv6() -> None:
    _run("""
        six = network("six", "fd00:9::/64", "fd00:9::1", ipv6=True)
        trio.run(lambda: host.add(six, new=True))
        assert "fd00:9::1/64" in bridges()["br-six"][1]
        assert "fd00:9::/64" in map(str, host.routes())
    """)


def test_devices_of_others() -> None:
    _run("""
        with Netlink.open() as netlink:
            netlink.add_bridge("br-other", "02:42:00:00:00:01", "of another program")
        other = network("other")
        assert fails(Conflict, host.add, other, new=True) == "bridge name br-other belongs to a network device of the host"
        trio.run(lambda: host.add(other, new=False))  # --bridge
        trio.run(host.remove, other)
        trio.run(host.sweep, [])
        trio.run(host.clear, [other])
        assert list(bridges()) == ["br-other"]
        lo = network("lo")
        lo.bridge = "lo"
        assert fails(Conflict, host.add, lo, new=False) == "network device lo is not a bridge"
        assert "has no bridge lo" in fails(InvalidParameter, host.find, lo)
        trio.run(host.find, other)
    """)


def test_leftovers_of_a_killed_daemon_are_removed() -> None:
    _run("""
        kept, left = network("kept"), network("left", "10.8.0.0/24", "10.8.0.1")
        for one in (kept, left):
            trio.run(lambda: host.add(one, new=True))
        trio.run(host.sweep, [kept])
        assert list(bridges()) == ["br-kept"]
    """)


def test_a_shared_bridge_has_the_addresses_of_all_networks() -> None:
    _run("""
        subprocess.run(["ip", "tuntap", "add", "eth9", "mode", "tap"], check=True)
        one, two = network("one"), network("two", "10.8.0.0/24", "10.8.0.1")
        one.bridge = two.bridge = "shared"
        host = BridgedHostNetwork("test0", Uplink("shared", "absent", 2378))
        assert fails(Unavailable, host.add, one, new=True) == "--bridge-interface absent: no such network device"
        host = BridgedHostNetwork("test0", Uplink("shared", "eth9", 2378))
        trio.run(lambda: host.add(one, new=True))
        trio.run(lambda: host.add(two, new=True))
        assert "master shared" in shown("eth9")
        assert {"10.9.0.1/24", "10.8.0.1/24"} <= set(bridges()["shared"][1])
        trio.run(host.remove, one)
        assert "10.9.0.1/24" not in bridges()["shared"][1]
        trio.run(host.sweep, [one])
        assert "10.8.0.1/24" not in bridges()["shared"][1]
        trio.run(host.clear, [one])
        assert "shared" not in bridges()
    """)


def test_rules_and_published_ports() -> None:
    _run("""
        def ruleset():
            return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
        one = network("one")
        trio.run(lambda: host.add(one, new=True))
        web, dns = Publication("tcp", "", 8080, "10.9.0.2", 80), Publication("udp", "127.0.0.1", 53, "10.9.0.2", 53)
        host.set_rules([one], [web])
        assert "tcp . 8080 : 10.9.0.2 . 80" in ruleset()
        host.publish([dns])
        assert "127.0.0.1 . udp . 53 : 10.9.0.2 . 53" in ruleset()
        host.withdraw([web, dns])
        assert "10.9.0.2" not in ruleset()
        try:
            host.withdraw([web])
        except Unavailable as error:
            assert str(error).startswith("nftables: ")
        else:
            raise AssertionError
        trio.run(host.clear, [one])
        assert "test0" not in ruleset() and bridges() == {}
    """)


def test_user_mode_changes_nothing() -> None:
    _run("""
        user = UserModeHostNetwork()
        trio.run(lambda: user.add(network("one"), new=True))
        user.set_rules([network("one")], [])
        assert user.routes() == [] and bridges() == {} and not user.bridged
        assert may_create_bridges() in (True, False)
    """)
