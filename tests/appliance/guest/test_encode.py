"""Disk addresses and networks as protobuf messages. test_messages.py has a whole setup."""

import pytest

from appliance.guest import DiskMount, GuestSetup, Interface, NetworkConfig, Resumption
from appliance.guest.encode import encode_network, encode_resumption, encode_setup
from appliance.hypervisor import GuestDisk
from appliance.hypervisor.driver import DiskAddress, ScsiAddress, VirtioBlkPci, VirtioBlkSerial
from protos.tether.v1 import filesystem_pb2, network_pb2, sandbox_pb2


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (ScsiAddress(1, 2, 3), filesystem_pb2.Disk(adapter=1, target=2, lun=3)),
        (ScsiAddress(0, 0, 0, 4), filesystem_pb2.Disk(partition=4)),
        (VirtioBlkSerial("vch-upper"), filesystem_pb2.Disk(serial="vch-upper")),
        (VirtioBlkSerial("vch", 2), filesystem_pb2.Disk(serial="vch", partition=2)),
        (VirtioBlkPci("0000:00:05.0", 1), filesystem_pb2.Disk(pci="0000:00:05.0", partition=1)),
    ],
)
def test_disk_addresses(address: DiskAddress, expected: filesystem_pb2.Disk) -> None:
    setup = GuestSetup("c", mounts=[DiskMount("/upper", "ext4", GuestDisk(address))])
    assert encode_setup(setup).mounts[0].disk == expected


def test_only_a_blank_disk_is_formatted() -> None:
    mounts = [
        DiskMount("/d", "ext4", GuestDisk(ScsiAddress(0, 0, 0), blank), (), ("-E", "x")) for blank in (True, False)
    ]
    assert [list(mount.blank) for mount in encode_setup(GuestSetup("c", mounts=mounts)).mounts] == [["-E", "x"], []]


def test_a_setup_without_a_network_leaves_the_network() -> None:
    assert not encode_setup(GuestSetup("c")).HasField("network")
    assert encode_setup(GuestSetup("c", network=NetworkConfig())).HasField("network")


def test_each_setup_has_its_own_entropy() -> None:
    assert encode_setup(GuestSetup("c")).entropy != encode_setup(GuestSetup("c")).entropy


def test_a_network() -> None:
    interfaces = [
        Interface("02:00", "eth0", ["10.0.0.2/24", "fd00::2/64"], ["10.0.0.1", "fd00::1"], 1400),
        Interface("02:01", "eth1", [], index=1, set_mac=True, dhcp=True, dhcp_route=True),
    ]
    assert encode_network(NetworkConfig(interfaces, b"rules")) == network_pb2.NetworkConfig(
        interfaces=[
            network_pb2.Interface(
                mac="02:00",
                name="eth0",
                addresses=["10.0.0.2/24", "fd00::2/64"],
                routes=[network_pb2.Route(gateway="10.0.0.1"), network_pb2.Route(gateway="fd00::1")],
                mtu=1400,
            ),
            network_pb2.Interface(mac="02:01", name="eth1", index=1, set_mac=True, dhcp=True, dhcp_route=True),
        ],
        filter=b"rules",
    )


def test_a_resumption() -> None:
    assert encode_resumption(Resumption()) == sandbox_pb2.AwakenRequest()
    message = encode_resumption(Resumption(NetworkConfig(), close_connections=True))
    assert message == sandbox_pb2.AwakenRequest(network=network_pb2.NetworkConfig(), close_connections=True)
