"""Who gets which address of a pool."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import Forbidden, InvalidParameter, Unavailable
from appliance.network.addresses import Subnet, default_pools, mac_of, pick_local_subnet6, pick_subnet
from appliance.network.network_record import Pool


def test_addresses_go_round_before_one_comes_again() -> None:
    subnet = Subnet(Pool("10.0.0.0/29"), "net")
    taken = [subnet.take().address for _ in range(3)]
    assert taken == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    subnet.release("10.0.0.2")
    assert [subnet.take().address for _ in range(3)] == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]
    with pytest.raises(Unavailable, match="no available IPv4 addresses on this network's address pools: net"):
        subnet.take()


def test_a_wanted_address_is_had_once() -> None:
    subnet = Subnet(Pool("10.0.0.0/24", aux={"printer": "10.0.0.7"}), "net")
    assert subnet.take("10.0.0.9").cidr == "10.0.0.9/24"
    for address in ("10.0.0.9", "10.0.0.1", "10.0.0.7"):
        with pytest.raises(Forbidden, match="Address already in use"):
            subnet.take(address)
    with pytest.raises(InvalidParameter):
        subnet.take("10.0.1.9")


def test_a_range_is_a_part() -> None:
    subnet = Subnet(Pool("10.0.0.0/24", "10.0.0.128/30", "10.0.0.254"), "net")
    assert [subnet.take().address for _ in range(4)] == [f"10.0.0.{number}" for number in range(128, 132)]
    assert subnet.gateway == "10.0.0.254"
    with pytest.raises(InvalidParameter, match="not part of subnet"):
        Subnet(Pool("10.0.0.0/24", "10.0.1.0/30"), "net")


def test_six() -> None:
    subnet = Subnet(Pool("fd00::/64"), "net")
    assert (subnet.gateway, subnet.take().address, subnet.take("fd00::ff").address) == (
        "fd00::1",
        "fd00::2",
        "fd00::ff",
    )


@given(st.lists(st.integers(0, 30)))
def test_the_next_pool_overlaps_with_none(chosen: list[int]) -> None:
    pools = list(default_pools())
    taken = [pools[number] for number in chosen]
    try:
        picked = pick_subnet(default_pools(), taken)
    except InvalidParameter:
        assert set(taken) == set(pools)
    else:
        assert not any(picked.overlaps(one) for one in taken)


def test_names_for_cards_and_local_subnets() -> None:
    assert mac_of("172.17.0.2") == "02:42:ac:11:00:02"
    local = pick_local_subnet6("ab" * 32)
    assert local.subnet_of(ipaddress.ip_network("fd00::/8"))  # type: ignore[arg-type]
    assert local.prefixlen == 64
