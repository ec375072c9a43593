"""What a guest sends to the host's ends of its NICs changes no route of the host. In a network namespace of the test's own."""

import contextlib
import os
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest
import trio

from appliance.hypervisor.driver import NO_BRIDGE
from appliance.hypervisor.qemu.taps import attach, open_tap
from appliance.network.host import BridgedHostNetwork
from appliance.network.netlink import Netlink
from appliance.network.network_record import NetworkRecord, Pool
from tests.tether.isolated import run_isolated

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs the rights of root")

_ALL_NODES, _ALL_MAC = "ff02::1", "33:33:00:00:00:01"
_GUEST, _GUEST_MAC = "fe80::5054:ff:fe00:66", "52:54:00:00:00:66"
_ADVERTISEMENT, _REDIRECT, _ECHO = 134, 137, 128


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    return ~(total % 0xFFFF) & 0xFFFF


def _icmp6(kind: int, body: bytes, extension: bool = False) -> bytes:
    """A frame of a guest, to all nodes, behind virtio's header. `extension`: with a header of destination options before ICMPv6."""
    source, target = (socket.inet_pton(socket.AF_INET6, one) for one in (_GUEST, _ALL_NODES))
    message = struct.pack(">BBH", kind, 0, 0) + body
    pseudo = source + target + struct.pack(">II", len(message), 58)
    message = struct.pack(">BBH", kind, 0, _sum(pseudo + message)) + body
    first, rest = (60, struct.pack(">BBBB4x", 58, 0, 1, 4) + message) if extension else (58, message)
    packet = struct.pack(">IHBB", 6 << 28, len(rest), first, 255) + source + target + rest
    return bytes(10) + _mac(_ALL_MAC) + _mac(_GUEST_MAC) + b"\x86\xdd" + packet


def _advertisement(extension: bool = False) -> bytes:
    """A router for 30 minutes, with a prefix for addresses (RFC 4861, 4.2 and 4.6.2; RFC 4191 knows preferences)."""
    prefix = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 1800, 1800, 0) + socket.inet_pton(
        socket.AF_INET6, "2001:db8:bad::"
    )
    return _icmp6(_ADVERTISEMENT, struct.pack(">BBHII", 64, 0x08, 1800, 0, 0) + prefix, extension)


def _routes() -> str:
    shown = subprocess.run(["ip", "-6", "route"], capture_output=True, text=True, check=True).stdout
    return "".join(line for line in shown.splitlines(True) if "proto ra" in line or "expires" in line)


def _is_up(device: str) -> bool:
    shown = subprocess.run(["ip", "-o", "link", "show", device], capture_output=True, text=True, check=True).stdout
    return "UP" in shown.partition("<")[2].partition(">")[0].split(",")


def _received(tap: int) -> list[bytes]:
    os.set_blocking(tap, False)
    frames = []
    with contextlib.suppress(BlockingIOError):
        while True:
            frames.append(os.read(tap, 65536)[10:])
    return frames


def _network(name: str) -> NetworkRecord:
    pool = Pool("fd00:9::/64", gateway="fd00:9::1")
    return NetworkRecord(f"id{name}", name, "bridge", 0, [pool], ipv6=True, bridge=f"br-{name}")


def _prepare() -> BridgedHostNetwork:
    # As a host (or an older appliance) that obeys routers although it forwards.
    Path("/proc/sys/net/ipv6/conf/default/accept_ra").write_text("2")
    Path("/proc/sys/net/ipv6/conf/default/forwarding").write_text("0")
    return BridgedHostNetwork("test0")


def advertise_on_a_bridge() -> None:
    host, network = _prepare(), _network("one")
    trio.run(lambda: host.add(network, new=True))
    tap, _ = open_tap("br-one", isolated=False)
    for frame in (_advertisement(), _advertisement(extension=True)):
        os.write(tap, frame)
    time.sleep(0.1)
    assert _routes() == ""
    assert "20010db80bad" not in Path("/proc/net/if_inet6").read_text()
    for name in ("ipv6/conf/br-one/accept_ra", "ipv6/conf/br-one/autoconf", "ipv6/conf/br-one/accept_redirects"):
        assert Path(f"/proc/sys/net/{name}").read_text() == "0\n", name
    assert Path("/proc/sys/net/ipv4/conf/br-one/accept_redirects").read_text() == "0\n"


def advertise_to_another_guest() -> None:
    host, network = _prepare(), _network("one")
    trio.run(lambda: host.add(network, new=True))
    host.set_rules([network], [])
    (one, _), (other, _) = open_tap("br-one", isolated=False), open_tap("br-one", isolated=False)
    time.sleep(0.05)
    _received(other)
    bpdu = (
        bytes(10)
        + _mac("01:80:c2:00:00:00")
        + _mac(_GUEST_MAC)
        + struct.pack(">H", 38)
        + bytes.fromhex("424203")
        + bytes(35)
    )
    redirect = _icmp6(_REDIRECT, bytes(36))
    for frame in (_advertisement(), _advertisement(extension=True), redirect, bpdu, _icmp6(_ECHO, bytes(4))):
        os.write(one, frame)
    time.sleep(0.1)
    received = [frame for frame in _received(other) if _mac(_GUEST_MAC) in frame[:12]]
    assert received == [_icmp6(_ECHO, bytes(4))[10:]]


def advertise_on_a_bridge_of_the_host() -> None:
    """With `--bridge` the host's own settings stay, and the rules protect its other devices."""
    host, network = _prepare(), _network("own")
    with Netlink.open() as netlink:
        netlink.set_up(netlink.add_bridge("br-own", "02:42:00:00:00:01", ""))
    trio.run(lambda: host.add(network, new=False))
    assert Path("/proc/sys/net/ipv6/conf/br-own/accept_ra").read_text() == "2\n"
    host.set_rules([network], [])
    tap, _ = open_tap("br-own", isolated=False)
    os.write(tap, _advertisement())
    time.sleep(0.1)
    assert _routes() == ""


def advertise_without_a_bridge() -> None:
    _prepare()
    tap, name = open_tap(NO_BRIDGE, isolated=False)
    assert not _is_up(name)
    with pytest.raises(OSError, match="Input/output error"):
        os.write(tap, _advertisement())
    assert _routes() == ""
    with Netlink.open() as netlink:
        netlink.set_up(netlink.add_bridge("br-late", "02:42:00:00:00:01", ""))
    attach(name, "br-late", isolated=True)
    assert _is_up(name)
    assert Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").read_text() == "1\n"


def test_a_router_advertisement_does_not_change_the_host() -> None:
    run_isolated(advertise_on_a_bridge, namespaces=("-n",))


def test_a_guest_is_neither_router_nor_bridge_for_other_guests() -> None:
    run_isolated(advertise_to_another_guest, namespaces=("-n",))


def test_a_bridge_of_the_host_keeps_its_settings() -> None:
    run_isolated(advertise_on_a_bridge_of_the_host, namespaces=("-n",))


def test_a_tap_without_a_bridge_is_down() -> None:
    run_isolated(advertise_without_a_bridge, namespaces=("-n",))
