"""NICs receive their configuration in order, with a fake rtnetlink, and with the kernel in a network namespace of the test's own."""

import errno
import fcntl
import os
import socket
import struct
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from protos.tether.v1.network_pb2 import ApplyRequest, Interface, NetworkConfig, Route
from tests.tether.isolated import run_isolated
from tether.agent import listeners, network
from tether.agent.network import ContainerNetwork, NetworkService
from tether.rpc.status import Code, RpcError
from tether.system.network_namespace import entered, make_network_namespace
from tether.system.rtnetlink import Rtnetlink


class FakeKernel:
    """A fake of Rtnetlink and NetlinkSocket: NICs as (index, name, MAC), and the changes that were made to them."""

    def __init__(self) -> None:
        self.nics: list[tuple[int, str, str]] = []
        self.done: list[tuple[Any, ...]] = []
        self.error: OSError | None = None

    def __call__(self, *_: object) -> "FakeKernel":
        return self

    def __enter__(self) -> "FakeKernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_link(self, index: int, **changes: Any) -> None:
        self.done.append(("link", index, {key: value for key, value in changes.items() if value not in (None, 0)}))
        if name := changes.get("name"):
            self.nics = [(number, name if number == index else old, mac) for number, old, mac in self.nics]

    def add_address(self, index: int, cidr: str) -> None:
        if self.error is not None:
            raise self.error
        self.done.append(("address", index, cidr))

    def add_route(self, index: int, destination: str, gateway: str) -> None:
        self.done.append(("route", index, destination, gateway))

    def remove_address(self, index: int, cidr: str) -> None:
        self.done.append(("remove", index, cidr))

    def send_batch(self, batch: bytes) -> None:
        self.done.append(("filter", batch))


class FakeLeases:
    def __init__(self) -> None:
        self.kept: list[dict[str, bool]] = []
        self.dropped: list[str] = []

    async def keep(self, wanted: dict[str, bool], hostname: str, namespace: int = -1) -> None:
        self.kept.append(wanted)

    def drop(self, name: str, namespace: int = -1) -> None:
        self.dropped.append(name)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKernel:
    made = FakeKernel()
    monkeypatch.setattr(network, "Rtnetlink", made)
    monkeypatch.setattr(network, "NetlinkSocket", made)
    monkeypatch.setattr(network, "nics", lambda: sorted(made.nics))
    monkeypatch.setattr(network, "_IPV6", tmp_path)
    monkeypatch.setattr("tether.agent.network.modules.load", lambda name: made.done.append(("module", name)))
    return made


async def test_a_nic_is_found_by_its_mac_and_renamed(kernel: FakeKernel) -> None:
    kernel.nics = [(2, "eth0", "02:00:00:00:00:01"), (3, "eth1", "02:00:00:00:00:02")]
    leases = FakeLeases()
    first = Interface(
        name="eth0",
        mac="02:00:00:00:00:02".upper(),
        addresses=["10.0.0.2/24"],
        routes=[Route(gateway="10.0.0.1")],
        mtu=1400,
    )
    second = Interface(name="eth1", mac="02:00:00:00:00:01", dhcp=True, dhcp_route=True)
    await network.apply(NetworkConfig(interfaces=[first, second]), leases)  # type: ignore[arg-type]
    assert kernel.done == [
        ("link", 2, {"name": "nic2"}),
        ("link", 3, {"name": "eth0"}),
        ("link", 3, {"mtu": 1400}),
        ("address", 3, "10.0.0.2/24"),
        ("route", 3, "", "10.0.0.1"),
        ("link", 2, {"name": "eth1"}),
        ("link", 2, {}),
    ]
    assert leases.kept == [{"eth1": True}]
    kernel.done.clear()
    network.remove(NetworkConfig(interfaces=[first, second]), leases)  # type: ignore[arg-type]
    assert kernel.done == [("remove", 3, "10.0.0.2/24")]
    assert leases.dropped == ["eth0", "eth1"]


async def test_only_nics_with_an_ipv6_address_take_part_in_ipv6(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.nics = [(number, f"eth{number}", f"02:00:00:00:00:0{number}") for number in range(4)]
    for name in ("eth0", "eth1", "eth2"):
        (tmp_path / name).mkdir()
    interfaces = [
        Interface(name="eth0", mac="02:00:00:00:00:00", addresses=["10.0.0.2/24"]),
        Interface(name="eth1", mac="02:00:00:00:00:01", addresses=["10.0.0.3/24", "fd00::3/64"]),
        Interface(name="eth2", mac="02:00:00:00:00:02", dhcp=True),
        # A kernel without IPv6.
        Interface(name="eth3", mac="02:00:00:00:00:03", addresses=["10.0.0.4/24"]),
    ]
    await network.apply(NetworkConfig(interfaces=interfaces), FakeLeases())  # type: ignore[arg-type]
    assert {file.parent.name: file.read_text() for file in tmp_path.glob("*/*")} == {"eth0": "1", "eth1": "0"}
    kernel.nics = [(3, "eth3", "02:00:00:00:00:03")]
    wanted = Interface(name="eth3", mac="02:00:00:00:00:03", addresses=["fd00::4/64"])
    with pytest.raises(RpcError, match=r"network eth3: .*disable_ipv6"):
        await network.apply(NetworkConfig(interfaces=[wanted]), FakeLeases())  # type: ignore[arg-type]


async def test_a_restored_nic_is_found_by_its_index(kernel: FakeKernel) -> None:
    kernel.nics = [(2, "eth0", "02:00:00:00:00:99")]
    wanted = Interface(name="eth0", mac="02:00:00:00:00:01", index=0, set_mac=True)
    await network.apply(NetworkConfig(interfaces=[wanted]), FakeLeases())  # type: ignore[arg-type]
    assert kernel.done == [("link", 2, {"mac": "02:00:00:00:00:01"})]


async def test_the_filter_comes_before_the_addresses(kernel: FakeKernel) -> None:
    kernel.nics = [(2, "eth0", "02:00:00:00:00:01")]
    wanted = Interface(name="eth0", mac="02:00:00:00:00:01", addresses=["10.0.0.2/24"])
    await network.apply(NetworkConfig(interfaces=[wanted], filter=b"rules"), FakeLeases())  # type: ignore[arg-type]
    assert [entry[0] for entry in kernel.done] == ["module", "module", "module", "filter", "link", "address"]


async def test_a_nic_may_appear_later(autojump_clock: MockClock, kernel: FakeKernel) -> None:
    wanted = Interface(name="eth0", mac="02:00:00:00:00:01")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(network.apply, NetworkConfig(interfaces=[wanted]), FakeLeases())  # type: ignore[arg-type]
        await trio.sleep(10)
        assert kernel.done == []
        kernel.nics = [(2, "eth0", "02:00:00:00:00:01")]
    assert kernel.done == [("link", 2, {})]


def _made_tap(mac: str) -> Any:
    """A link that stands in for a hot-plugged NIC. It lives as long as the file that is returned."""
    tun = open("/dev/net/tun", "r+b", buffering=0)  # noqa: SIM115
    fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"plugged0", 0x2 | 0x1000))
    with Rtnetlink() as rtnetlink:
        rtnetlink.set_link(socket.if_nametoindex("plugged0"), mac=mac)
    return tun


def _links() -> list[tuple[int, str, str]]:
    with Rtnetlink() as rtnetlink:
        return [(link.number, link.name, link.mac) for link in rtnetlink.links() if link.name != "lo"]


class FakeWatch:
    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    async def send(self, found: Any) -> None:
        self.seen.append([one.port for one in found.listeners])


def _in_a_namespace() -> None:
    network.nics = _links  # type: ignore[attr-defined]
    own = ContainerNetwork(make_network_namespace(), "box")
    mac = "02:42:ac:11:00:02"
    wanted = Interface(name="eth0", mac=mac, addresses=["10.9.8.7/24"], routes=[Route(gateway="10.9.8.1")], mtu=1400)
    config = NetworkConfig(interfaces=[wanted])
    leases = FakeLeases()
    watch = FakeWatch()

    async def apply() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(network.apply, config, leases, own)  # type: ignore[arg-type]
            await trio.sleep(0.02)
            made.append(_made_tap(mac))
        # Repeatable: the NIC is there already.
        await network.apply(config, leases, own)  # type: ignore[arg-type]

    async def watch_both() -> None:
        for namespace in (own.namespace, -1):
            with trio.move_on_after(0.02):
                await listeners.watch(watch, partial(int, namespace))  # type: ignore[arg-type]

    made: list[Any] = []
    trio.run(apply)
    assert _links() == []
    with entered(own.namespace):
        assert [(name, found) for _, name, found in _links()] == [("eth0", mac)]
        server, client = socket.create_server(("0.0.0.0", 80)), socket.socket()
        client.connect(("10.9.8.7", 80))
    trio.run(watch_both)
    assert watch.seen == [[80], []]
    client.close()
    server.close()
    network.remove(config, leases, own.namespace)  # type: ignore[arg-type]
    with entered(own.namespace), socket.socket() as client:
        assert client.connect_ex(("10.9.8.7", 80)) == errno.ENETUNREACH


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="needs root and /dev/net/tun")
def test_a_nic_moves_into_the_network_namespace_of_its_container() -> None:
    run_isolated(_in_a_namespace, namespaces=("--net",))


async def test_a_nic_that_never_appears(autojump_clock: MockClock, kernel: FakeKernel) -> None:
    wanted = Interface(name="eth0", mac="02:00:00:00:00:01")
    with pytest.raises(RpcError, match="no NIC with the MAC address 02:00:00:00:00:01") as caught:
        await network.apply(NetworkConfig(interfaces=[wanted]), FakeLeases())  # type: ignore[arg-type]
    assert caught.value.code is Code.NOT_FOUND
    assert trio.current_time() == pytest.approx(15.0, abs=0.1)


async def test_an_address_that_the_kernel_refuses(kernel: FakeKernel) -> None:
    kernel.nics = [(2, "eth0", "02:00:00:00:00:01")]
    kernel.error = OSError(22, "Invalid argument", "10.0.0.2/99")
    wanted = Interface(name="eth0", mac="02:00:00:00:00:01", addresses=["10.0.0.2/99"])
    service = NetworkService(None, FakeLeases(), lambda _: ContainerNetwork())  # type: ignore[arg-type]
    with pytest.raises(RpcError, match=r"network eth0: .*Invalid argument") as caught:
        await service.apply(ApplyRequest(config=NetworkConfig(interfaces=[wanted])))
    assert caught.value.code is Code.FAILED_PRECONDITION
