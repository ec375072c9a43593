"""The rules as a kernel takes them: given to nft in a network namespace, and read back."""

import os
import subprocess
import sys

import pytest

from appliance.errors import Unavailable
from appliance.network.firewall import Nft, Publication, element, frame_removal, frame_rules, removal, rules
from appliance.network.network_record import OPTION_MASQUERADE, NetworkRecord, Pool, Uplink

_FRONT = NetworkRecord("id1", "front", "bridge", 0, [Pool("10.9.0.0/24", gateway="10.9.0.1")], bridge="br-front")
_WEB = Publication("tcp", "", 8080, "10.9.0.2", 80)
_DNS = Publication("udp", "127.0.0.1", 53, "10.9.0.2", 53)
_SIX = Publication("tcp", "", 8080, "fd00:9::2", 80)


def _network(name: str, **more: object) -> NetworkRecord:
    record = NetworkRecord("id2", name, "bridge", 0, [Pool("10.8.0.0/24", gateway="10.8.0.1")], bridge=f"br-{name}")
    for key, value in more.items():
        setattr(record, key, value)
    return record


def _chain(text: str, family: str, name: str) -> list[str]:
    """The rules of a chain."""
    table = text.partition(f"table {family} test {{\n")[2].partition("\n}\n")[0]
    return [line.strip() for line in table.partition(f" chain {name} {{\n")[2].partition("\n }")[0].splitlines()[1:]]


def test_published_ports_are_elements_of_maps() -> None:
    text = rules("test", [_FRONT], [_WEB, _DNS, _SIX])
    assert "map published { type inet_proto . inet_service : ipv4_addr . inet_service;" in text
    assert "elements = { tcp . 8080 : 10.9.0.2 . 80 };" in text
    assert "elements = { 127.0.0.1 . udp . 53 : 10.9.0.2 . 53 };" in text
    assert "elements = { tcp . 8080 : fd00:9::2 . 80 };" in text
    assert element("add", "test", _WEB) == "add element ip test published { tcp . 8080 : 10.9.0.2 . 80 }\n"
    assert element("delete", "test", _DNS) == (
        "delete element ip test published_at { 127.0.0.1 . udp . 53 : 10.9.0.2 . 53 }\n"
    )
    assert element("add", "test", _SIX) == "add element ip6 test published { tcp . 8080 : fd00:9::2 . 80 }\n"


def test_masquerade() -> None:
    out = 'ip saddr 10.9.0.0/24 oifname != "br-front" masquerade'
    assert out in _chain(rules("test", [_FRONT], []), "ip", "postrouting")
    assert out not in _chain(rules("test", [_FRONT], []), "ip6", "postrouting")
    internal = _network("inner", internal=True)
    switched_off = _network("off", options={OPTION_MASQUERADE: "false"})
    for network in (internal, switched_off):
        assert not any("oifname !=" in line for line in _chain(rules("test", [network], []), "ip", "postrouting"))


def test_internal_networks_are_in_a_set() -> None:
    text = rules("test", [_FRONT, _network("inner", internal=True)], [])
    assert ' set internal { type ifname; elements = { "br-inner" }; }' in text
    assert ' set bridges { type ifname; elements = { "br-front", "br-inner" }; }' in text


def test_networks_on_a_shared_bridge_are_separated_by_addresses() -> None:
    front, inner = _network("front", bridge="shared"), _network("inner", bridge="shared", internal=True)
    text = rules("test", [front, inner], [], Uplink("shared", "eth1", 2378))
    forward = _chain(text, "ip", "forward")
    same = 'iifname "shared" ip saddr 10.8.0.0/24 oifname "shared" ip daddr 10.8.0.0/24 accept'
    assert same in forward
    assert forward.index(same) < forward.index('iifname "shared" ip saddr 10.8.0.0/24 drop')
    assert " set same { type ifname . ifname; }" in text
    assert 'iifname "shared" ip saddr 10.8.0.0/24 ip daddr 10.8.0.1 tcp dport 2378 accept' in _chain(
        text, "ip", "input"
    )


def test_networks_without_a_bridge_have_no_rules() -> None:
    for driver in ("host", "null", "external"):
        assert "10.8.0.0/24" not in rules("test", [_network("x", driver=driver)], [])


def test_an_error_has_nfts_words() -> None:
    nft = Nft()
    with pytest.raises(Unavailable, match=r"^nftables: .*syntax error"):
        nft.run("nonsense\n")
    nft.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs the rights of root")
@pytest.mark.parametrize("uplink", [None, Uplink("br-front", "eth1", 2378)])
def test_a_kernel_takes_the_rules_again_and_again(uplink: Uplink | None) -> None:
    six = NetworkRecord(
        "id3", "six", "bridge", 0, [Pool("fd00:9::/64", gateway="fd00:9::1")], ipv6=True, bridge="br-six"
    )
    networks = [_FRONT, _network("inner", internal=True), _network("deep", bridge="br-front", internal=True), six]
    text = rules("test", networks, [_WEB, _DNS, _SIX], uplink) + frame_rules("test", networks)
    script = text * 2 + element("delete", "test", _WEB) + element("add", "test", _WEB) + "list ruleset\n"
    done = subprocess.run(
        ["unshare", "-n", "nft", "-f", "-"], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("table ip test") == 1
    gone = subprocess.run(
        ["unshare", "-n", "nft", "-f", "-"],
        input=removal("test") + text + removal("test") + frame_removal("test") + "list ruleset\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert gone.stdout == ""


# A guest behind a tap sends a query with a neighbour's source address and MAC; prints the mark that the host's socket receives.
_SPOOFING = r"""
import socket, struct, subprocess, sys
from appliance.network.firewall import Nft, frame_rules
from appliance.network.network_record import NetworkRecord, Pool

for command in (
    "link add br-f address 02:42:0a:08:00:01 type bridge", "addr add 10.8.0.1/24 dev br-f", "link set br-f up",
    "link add vch-0 type veth peer name guest0",
    "link add vch-1 type veth peer name guest1", "link set vch-0 master br-f up", "link set vch-1 master br-f up",
    "link set guest0 up", "link set guest1 up",
):
    subprocess.run(["ip", *command.split()], check=True)
record = NetworkRecord("id", "f", "bridge", 0, [Pool("10.8.0.0/24", gateway="10.8.0.1")], bridge="br-f")
Nft().run(frame_rules("test", [record]))
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.setsockopt(socket.SOL_SOCKET, 75, 1)
server.bind(("10.8.0.1", 53))
server.settimeout(10)
to = bytes.fromhex("02420a080001")
for guest, source in (("guest0", "10.8.0.2"), ("guest0", "10.8.0.3"), ("guest1", "10.8.0.2")):
    udp = struct.pack(">4H", 5353, 53, 8 + 1, 0) + b"x"
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton("10.8.0.1"))
    total = sum(struct.unpack(">10H", head))
    head = head[:10] + struct.pack(">H", 0xFFFF - ((total & 0xFFFF) + (total >> 16))) + head[12:]
    raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    raw.bind((guest, 0))
    raw.send(to + b"\x02\0\0\0\0" + source[-1].encode() + b"\x08\0" + head + udp)
    _, ancillary, _, peer = server.recvmsg(100, 64)
    print(peer[0], ancillary[0][2].hex())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs the rights of root")
def test_a_query_is_marked_with_its_tap_whatever_its_source() -> None:
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", _SPOOFING], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (own, first), (spoofed, second), (neighbour, third) = (line.split() for line in done.stdout.splitlines())
    assert (own, spoofed, neighbour) == ("10.8.0.2", "10.8.0.3", "10.8.0.2")
    assert first == second != third
    assert int(first, 16) != 0 != int(third, 16)
