"""Leases are applied, renewed and withdrawn. udhcpc is a script of lines; the kernel's part is recorded, but for one test."""

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protos.tether.v1.network_pb2 import Lease
from tests.tether.isolated import run_isolated
from tether.agent import dhcp
from tether.agent.dhcp import Leases
from tether.agent.reaper import Reaper
from tether.rpc.status import RpcError
from tether.system.network_namespace import entered, make_network_namespace
from tether.system.rtnetlink import Rtnetlink


class FakeRtnetlink:
    def __init__(self, done: list[tuple[Any, ...]]) -> None:
        self._done = done

    def __enter__(self) -> "FakeRtnetlink":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_address(self, index: int, cidr: str) -> None:
        if "nonsense" in cidr:
            raise ValueError(cidr)
        self._done.append(("add", index, cidr))

    def add_route(self, index: int, destination: str, gateway: str) -> None:
        self._done.append(("route", index, gateway))

    def remove_address(self, index: int, cidr: str) -> None:
        self._done.append(("remove", index, cidr))


class Network:
    """The DHCP leases of a guest. `say` delivers a line that the client of a NIC has printed."""

    def __init__(self, leases: Leases) -> None:
        self.leases = leases
        self.done: list[tuple[Any, ...]] = []

    def say(self, name: str, line: str) -> None:
        self.leases._on_line(self.leases._clients[-1, name], line)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery) -> Network:
    made = Network(Leases(nursery, None))  # type: ignore[arg-type]

    async def run(self: Leases, client: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Leases, "_run_udhcpc", run)
    monkeypatch.setattr(dhcp, "Rtnetlink", lambda: FakeRtnetlink(made.done))
    monkeypatch.setattr(dhcp, "nics", lambda: [(2, "eth0", ""), (3, "eth1", "")])
    return made


async def _bound(network: Network, *, route: bool = False) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.leases.keep, {"eth0": route}, "box")
        await trio.testing.wait_all_tasks_blocked()
        network.say("eth0", "bound|10.0.0.5/24|10.0.0.1 10.0.0.2|9.9.9.9 8.8.8.8|example.org a example.org")


async def test_a_lease_is_applied_and_reported(network: Network) -> None:
    await _bound(network, route=True)
    assert network.done == [("add", 2, "10.0.0.5/24"), ("route", 2, "10.0.0.1")]
    (client,) = network.leases._clients.values()
    assert client.lease == Lease(
        interface="eth0",
        address="10.0.0.5/24",
        gateway="10.0.0.1",
        dns=["9.9.9.9", "8.8.8.8"],
        search=["example.org", "a"],
    )


async def test_another_address_replaces_the_first(network: Network) -> None:
    await _bound(network)
    network.say("eth0", "renew|10.0.0.5/24|||")
    network.say("eth0", "renew|10.0.0.9/24|||")
    network.say("eth0", "renew|nonsense|||")
    network.say("eth0", "leasefail")
    assert network.done[1:] == [
        ("add", 2, "10.0.0.5/24"),
        ("remove", 2, "10.0.0.5/24"),
        ("add", 2, "10.0.0.9/24"),
        ("remove", 2, "10.0.0.9/24"),
    ]


async def test_a_lease_ends(network: Network) -> None:
    await _bound(network)
    network.say("eth0", "deconfig")
    network.say("eth0", "deconfig")
    assert network.done[1:] == [("remove", 2, "10.0.0.5/24")]


async def test_nics_that_are_no_longer_wanted(network: Network) -> None:
    await _bound(network)
    await network.leases.keep({}, "box")
    assert network.done[1:] == [("remove", 2, "10.0.0.5/24")]
    assert not network.leases._clients
    network.leases.drop("eth0")


async def test_the_default_route_may_be_wanted_later(network: Network) -> None:
    await _bound(network)
    await network.leases.keep({"eth0": True}, "box")
    assert network.done[1:] == [("add", 2, "10.0.0.5/24"), ("route", 2, "10.0.0.1")]


async def test_no_server_answers(autojump_clock: MockClock, network: Network) -> None:
    with pytest.raises(RpcError, match="network eth1: no DHCP server answers"):
        await network.leases.keep({"eth1": False}, "box")
    assert trio.current_time() == pytest.approx(20.0)
    assert not network.leases._clients


class FakeCall:
    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    async def send(self, leases: Any) -> None:
        self.seen.append([lease.address for lease in leases.leases])


async def test_a_watcher_sees_each_change(network: Network, nursery: trio.Nursery) -> None:
    call = FakeCall()
    nursery.start_soon(network.leases.watch, call, lambda: -1)  # type: ignore[arg-type]
    await _bound(network)
    await trio.testing.wait_all_tasks_blocked()
    network.say("eth0", "renew|10.0.0.5/24|10.0.0.1 10.0.0.2|9.9.9.9 8.8.8.8|example.org a")
    await trio.testing.wait_all_tasks_blocked()
    network.say("eth0", "deconfig")
    await trio.testing.wait_all_tasks_blocked()
    assert call.seen == [[], ["10.0.0.5/24"], []]
    nursery.cancel_scope.cancel()


# In place of busybox: it reports the network namespace in which it runs as the search domain.
_CLIENT = """#!/bin/sh
echo "bound|10.9.8.7/24|10.9.8.1|9.9.9.9|$(readlink /proc/self/ns/net)"
exec sleep 60
"""


def _has_address() -> bool:
    with socket.socket() as one:
        return one.connect_ex(("10.9.8.7", 1)) == errno.ECONNREFUSED


def _links() -> list[tuple[int, str, str]]:
    with Rtnetlink() as rtnetlink:
        return [(link.number, link.name, link.mac) for link in rtnetlink.links() if link.name != "lo"]


async def _keep_in(namespace: int) -> None:
    call = FakeCall()
    elsewhere = FakeCall()
    async with trio.open_nursery() as nursery:
        reaper = Reaper()
        nursery.start_soon(reaper.run)
        leases = Leases(nursery, reaper)
        nursery.start_soon(leases.watch, call, lambda: namespace)  # type: ignore[arg-type]
        nursery.start_soon(leases.watch, elsewhere, lambda: -1)  # type: ignore[arg-type]
        await leases.keep({"eth0": True}, "box", namespace)
        await trio.testing.wait_all_tasks_blocked()
        (client,) = leases._clients.values()
        assert client.lease is not None
        assert not _has_address()
        with entered(namespace):
            assert _has_address()
            assert list(client.lease.search) == [os.readlink("/proc/thread-self/ns/net")]
        # The clients of another namespace stay.
        await leases.keep({}, "box")
        assert leases._clients
        await leases.keep({}, "", namespace)
        with entered(namespace):
            assert not _has_address()
        await trio.testing.wait_all_tasks_blocked()
        assert call.seen[-2:] == [["10.9.8.7/24"], []]
        assert elsewhere.seen[0] == []
        assert ["10.9.8.7/24"] not in elsewhere.seen
        nursery.cancel_scope.cancel()


def _in_a_namespace(client: str) -> None:
    dhcp._BUSYBOX = client
    dhcp.nics = _links  # type: ignore[attr-defined]
    namespace = make_network_namespace()
    with entered(namespace):
        # The link lives as long as this descriptor, in the namespace in which the file was opened.
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"eth0", 0x2 | 0x1000))
        with Rtnetlink() as rtnetlink:
            rtnetlink.set_link(socket.if_nametoindex("eth0"))
    trio.run(_keep_in, namespace)


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="needs root and /dev/net/tun")
def test_a_client_runs_in_the_network_namespace_of_its_container(tmp_path: Path) -> None:
    client = tmp_path / "client"
    client.write_text(_CLIENT)
    client.chmod(0o755)
    run_isolated(_in_a_namespace, str(client), namespaces=("--net",))
