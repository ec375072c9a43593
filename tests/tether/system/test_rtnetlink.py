"""Links, addresses and routes, in a network namespace of the test's own."""

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path

import pytest

from tests.tether.isolated import run_isolated
from tether.system.network_namespace import entered, make_network_namespace
from tether.system.rtnetlink import Rtnetlink, loopback_up, nics

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def _route_lines() -> set[tuple[str, str, str]]:
    """(link, destination, gateway) of each IPv4 route; proc(5), in hexadecimal."""
    rows = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    return {(row[0], row[1], row[2]) for row in rows}


def _has(address: str) -> bool:
    """Whether the address is one of this namespace's own: nothing listens there, and nothing else answers at all."""
    with socket.socket() as one:
        return one.connect_ex((address, 1)) == errno.ECONNREFUSED


def _addresses() -> None:
    assert not _has("127.0.0.1")
    loopback_up()
    assert _has("127.0.0.1")
    with Rtnetlink() as rtnetlink:
        rtnetlink.add_address(1, "10.9.8.7/24")
        # Repeatable: a lost answer makes the appliance ask again.
        rtnetlink.add_address(1, "10.9.8.7/24")
        assert _has("10.9.8.7")
        rtnetlink.add_route(1, "10.7.0.0/16", "")
        rtnetlink.add_route(1, "10.7.0.0/16", "")
        assert ("lo", "0000070A", "00000000") in _route_lines()
        rtnetlink.remove_address(1, "10.9.8.7/24")
        rtnetlink.remove_address(1, "10.9.8.7/24")
        assert not _has("10.9.8.7")
        with pytest.raises(OSError, match=r"10\.1\.1\.1/24") as caught:
            rtnetlink.add_address(99, "10.1.1.1/24")
        assert caught.value.errno == errno.ENODEV


def test_addresses_and_routes() -> None:
    run_isolated(_addresses, namespaces=("--net",))


def _tap() -> None:
    with open("/dev/net/tun", "r+b", buffering=0) as tun:
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"tap0", 0x2 | 0x1000))
        index = socket.if_nametoindex("tap0")
        with Rtnetlink() as rtnetlink:
            rtnetlink.set_link(index, up=False, name="eth0")
            rtnetlink.set_link(index, mac="02:42:ac:11:00:02", mtu=1400)
            rtnetlink.add_address(index, "172.17.0.2/16")
            rtnetlink.add_route(index, "", "172.17.0.1")
            with pytest.raises(OSError, match="default"):
                rtnetlink.add_route(index, "", "192.0.2.1")
            links = {link.name: link for link in rtnetlink.links()}
            assert links["eth0"] == (index, "eth0", "02:42:ac:11:00:02", "")
            assert links["lo"].number == 1
            # A virtual link is no NIC.
            assert nics() == []
        assert socket.if_nametoindex("eth0") == index
        assert ("eth0", "00000000", "010011AC") in _route_lines()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            request = struct.pack("16s24x", b"eth0")
            assert fcntl.ioctl(control, 0x8927, request)[18:24].hex(":") == "02:42:ac:11:00:02"
            assert struct.unpack_from("i", fcntl.ioctl(control, 0x8921, request), 16)[0] == 1400
        namespace = make_network_namespace()
        with Rtnetlink() as rtnetlink:
            rtnetlink.move_link(index, namespace)
            assert [link.name for link in rtnetlink.links()] == ["lo"]
            with pytest.raises(OSError, match="No such device"):
                rtnetlink.move_link(index, namespace)
        with entered(namespace), Rtnetlink() as rtnetlink:
            assert [(link.name, link.mac) for link in rtnetlink.links() if link.name != "lo"] == [
                ("eth0", "02:42:ac:11:00:02")
            ]


@pytest.mark.skipif(not os.path.exists("/dev/net/tun"), reason="needs /dev/net/tun")
def test_a_nic_gets_its_name_address_and_default_route() -> None:
    run_isolated(_tap, namespaces=("--net",))
