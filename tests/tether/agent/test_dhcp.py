"""Leases are applied, renewed and withdrawn. udhcpc is a script of lines; the kernel's part is recorded."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protos.tether.v1.network_pb2 import Lease
from tether.agent import dhcp
from tether.agent.dhcp import Leases
from tether.rpc.status import RpcError


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
