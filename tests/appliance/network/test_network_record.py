"""Records of networks, and which endpoint of a container has which role."""

from typing import Any

import msgspec
import pytest

from appliance.hypervisor import NO_BRIDGE, Nic
from appliance.network.network_record import (
    EXTERNAL,
    OPTION_ICC,
    OPTION_MTU,
    OVERLAY,
    Address,
    Endpoint,
    NetworkRecord,
    Pool,
    bridge_nic,
    gateway_endpoint,
    ingress_endpoint,
)


def _network(name: str, driver: str = "bridge", **more: Any) -> NetworkRecord:
    return NetworkRecord(f"id-{name}", name, driver, 0, **more)


def _endpoint(network: NetworkRecord, address: str = "10.9.0.2") -> Endpoint:
    ipv4 = Address(address, 24, "10.9.0.1") if address else None
    return Endpoint(network, "ep", "02:42:0a:09:00:02", ipv4, None, "10.9.0.1", Nic("02:42:0a:09:00:02"), "eth0")


@pytest.mark.parametrize(
    ("network", "is_bridge", "is_external", "names_are_known"),
    [
        (_network("bridge"), True, False, False),
        (_network("front"), True, False, True),
        (_network("swarm", OVERLAY), True, False, True),
        (_network("ingress", OVERLAY, ingress=True), False, False, False),
        (_network("lan", EXTERNAL), False, True, False),
        (_network("host", "host"), False, False, False),
        (_network("none", "null"), False, False, False),
    ],
)
def test_kinds(network: NetworkRecord, is_bridge: bool, is_external: bool, names_are_known: bool) -> None:
    assert (network.is_bridge, network.is_external, network.names_are_known) == (
        is_bridge,
        is_external,
        names_are_known,
    )


def test_options() -> None:
    network = _network("front", options={OPTION_MTU: "1400", OPTION_ICC: "False"})
    assert network.mtu == 1400
    assert not network.on(OPTION_ICC)
    assert _network("back").on(OPTION_ICC)
    assert _network("back", options={OPTION_MTU: "x"}).mtu == 0
    assert bridge_nic(network, "02:42:00:00:00:01") == Nic("02:42:00:00:00:01", bridge=NO_BRIDGE, isolated=True)


def test_pools() -> None:
    pools = [Pool("10.9.0.0/24"), Pool("fd00::/64")]
    assert _network("front", pools=pools).used_pools == pools[:1]
    assert _network("front", pools=pools, ipv6=True).used_pools == pools
    assert _network("lan", EXTERNAL).dhcp
    assert not _network("lan", EXTERNAL, pools=pools).dhcp


def test_the_default_route_goes_through_the_first_network_by_name_that_leads_outside() -> None:
    back, front = _endpoint(_network("back")), _endpoint(_network("front"))
    inner, nowhere = _endpoint(_network("a-inner", internal=True)), _endpoint(_network("a-none", "null"), "")
    assert gateway_endpoint([front, inner, nowhere, back]) is back
    assert gateway_endpoint([inner, nowhere]) is None
    assert gateway_endpoint([]) is None


def test_published_ports_lead_to_no_external_network() -> None:
    lan, front = _endpoint(_network("a-lan", EXTERNAL), ""), _endpoint(_network("front"))
    assert gateway_endpoint([front, lan]) is lan
    assert ingress_endpoint([front, lan]) is front
    assert ingress_endpoint([lan]) is None


def test_a_record_of_the_first_version_is_read() -> None:
    stored = (
        b'{"id":"a","name":"front","driver":"bridge","created":5,"pools":[{"subnet":"10.9.0.0/24","ip_range":"",'
        b'"gateway":"10.9.0.1","aux":{}}],"internal":false,"attachable":false,"ipv4":true,"ipv6":false,'
        b'"own_subnet":true,"labels":{"a":"b"},"options":{},"ipam_options":null,"bridge":"br-a","scope":"local",'
        b'"ingress":false,"dns":[],"firewall":""}'
    )
    record = msgspec.json.decode(stored, type=NetworkRecord)
    assert (record.bridge, record.own_subnet, record.used_pools[0].gateway) == ("br-a", True, "10.9.0.1")
    # Later versions have added the owner and the role.
    assert msgspec.json.encode(record) == stored.removesuffix(b"}") + b',"owner":"","role":""}'
