"""Published ports: requests, and which container holds which port."""

from collections.abc import Iterable
from typing import Any

import pytest
import trio

from appliance.container.container_record import Binding
from appliance.container.go_json import convert, fold
from appliance.container.host_config import HostConfig, PortBindings
from appliance.errors import InvalidParameter, VchError
from appliance.network.firewall import Publication, rules
from appliance.network.host import UserModeHostNetwork
from appliance.network.network_record import NetworkRecord, Pool
from appliance.network.ports import PortRequest, Ports, each_port, parse_bindings


class _Host(UserModeHostNetwork):
    """Remembers the publications."""

    def __init__(self) -> None:
        self.now: set[Publication] = set()

    def publish(self, publications: Iterable[Publication]) -> None:
        self.now |= set(publications)

    def withdraw(self, publications: Iterable[Publication]) -> None:
        self.now -= set(publications)


def _decoded(bindings: dict[str, Any]) -> PortBindings:
    given: dict[str, object] = {"PortBindings": bindings}
    fold(given, HostConfig)
    return convert(given, HostConfig).port_bindings or {}


@pytest.fixture
def host() -> _Host:
    return _Host()


async def test_a_port_is_had_once(host: _Host) -> None:
    async with trio.open_nursery() as nursery:
        ports = Ports(host, nursery)
        (binding,) = ports.take("one", "one (ep)", [PortRequest("tcp", 80, "127.0.0.1", 0, 0)])
        ports.forward("one", [binding], "10.0.0.2", "")
        assert host.now == {Publication("tcp", "127.0.0.1", binding.host_port, "10.0.0.2", 80)}
        with pytest.raises(
            VchError, match=f"endpoint two .*Bind for 127.0.0.1:{binding.host_port} failed: port is already allocated"
        ):
            ports.take("two", "two (ep)", [PortRequest("tcp", 81, "127.0.0.1", binding.host_port, binding.host_port)])
        # A range has others; udp is another thing.
        (other,) = ports.take(
            "two", "two", [PortRequest("tcp", 81, "127.0.0.1", binding.host_port, binding.host_port + 20)]
        )
        assert other.host_port != binding.host_port
        ports.take("two", "two", [PortRequest("udp", 81, "127.0.0.1", binding.host_port, binding.host_port)])
        ports.release("one")
        assert host.now == set()
        assert ports.take(
            "three", "three", [PortRequest("tcp", 80, "127.0.0.1", binding.host_port, binding.host_port)]
        ) == [binding]
        ports.release("two")
        ports.release("three")
        nursery.cancel_scope.cancel()


async def test_all_or_none(host: _Host) -> None:
    async with trio.open_nursery() as nursery:
        ports = Ports(host, nursery)
        (taken,) = ports.take("one", "one", [PortRequest("tcp", 80, "127.0.0.1", 0, 0)])
        free = next(number for number in range(40000, 50000) if number != taken.host_port)
        with pytest.raises(VchError):
            ports.take(
                "two",
                "two",
                [
                    PortRequest("tcp", 1, "127.0.0.1", free, free),
                    PortRequest("tcp", 2, "127.0.0.1", taken.host_port, taken.host_port),
                ],
            )
        assert ports.take("two", "two", [PortRequest("tcp", 1, "127.0.0.1", free, free)]) == [
            Binding("tcp", 1, "127.0.0.1", free)
        ]
        ports.release("one")
        ports.release("two")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("bindings", "wanted"),
    [
        ({"80/tcp": None}, [PortRequest("tcp", 80, "", 0, 0)]),
        ({"80": [{"HostPort": ""}]}, [PortRequest("tcp", 80, "", 0, 0)]),
        ({"53/udp": [{"HostIp": "::1", "HostPort": "5300-5310"}]}, [PortRequest("udp", 53, "::1", 5300, 5310)]),
    ],
)
def test_requested_ports(bindings: dict[str, Any], wanted: list[PortRequest]) -> None:
    assert parse_bindings(_decoded(bindings)) == wanted


def test_exposed_ports_one_by_one() -> None:
    found = list(each_port(["80", "53/UDP", "9000-9002/tcp"]))
    assert found == [(80, "tcp"), (53, "udp"), (9000, "tcp"), (9001, "tcp"), (9002, "tcp")]


@pytest.mark.parametrize(
    "bindings",
    [
        {"x": []},
        {"0/tcp": []},
        {"80/icmp": []},
        {"80": 5},
        {"80": [5]},
        {"80": [{"HostPort": "x"}]},
        {"80": [{"HostPort": "9-8"}]},
        {"80": [{"HostIp": "nowhere"}]},
        {"80": [{"HostPort": 80}]},
        {"80": [{"HostPort": "70000"}]},
    ],
)
def test_invalid_port_bindings(bindings: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        parse_bindings(_decoded(bindings))


def test_rules_name_only_what_is_ours() -> None:
    network = NetworkRecord(
        "a" * 64, "net", "bridge", 0, [Pool("10.0.0.0/24", gateway="10.0.0.1")], internal=True, bridge="br-a"
    )
    text = rules("vch0", [network], [Publication("tcp", "", 80, "10.0.0.2", 8080)])
    tables = {line.split("table ")[1].split()[1] for line in text.splitlines() if "table " in line}
    assert tables == {"vch0"}
    assert "flush" not in text
    # What is internal is not masked: it does not leave.
    assert 'oifname != "br-a" masquerade' not in text
