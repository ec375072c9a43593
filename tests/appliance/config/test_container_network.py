"""Container networks from their texts."""

import pytest

from appliance.config.container_network import ContainerNetwork, parse_container_network
from appliance.errors import InvalidParameter

_LAN = "name=lan,portgroup=VM Network,subnet=192.0.2.0/24"


def test_all_keys() -> None:
    text = f"{_LAN},gateway=192.0.2.1,range=192.0.2.64/28,dns=192.0.2.53,dns=192.0.2.54,firewall=peers"
    assert parse_container_network(text) == ContainerNetwork(
        "lan",
        "VM Network",
        "192.0.2.0/24",
        "192.0.2.1",
        "192.0.2.64/28",
        ("192.0.2.53", "192.0.2.54"),
        "peers",
    )
    assert parse_container_network("name=dhcp,bridge=br0") == ContainerNetwork("dhcp", "br0")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("name=x", "are required"),
        ("name=x,bridge=a,portgroup=b", "are required"),
        ("name=x,bridge=a,mtu=9000", "'mtu=9000' is not one of name="),
        ("name=x,name=y,bridge=a", "name is given twice"),
        ("name=x,bridge=a,firewall=ajar", "firewall=ajar is not one of closed, outbound, peers, published, open"),
        ("name=x,bridge=a,gateway=192.0.2.1", "gateway needs subnet"),
        ("name=x,bridge=a,firewall=peers", "firewall=peers needs subnet"),
        (f"{_LAN},gateway=203.0.113.1", "203.0.113.1 is not in 192.0.2.0/24"),
        (f"{_LAN},range=192.0.2.9-192.0.2.3", "range=192.0.2.9-192.0.2.3 is empty"),
        (f"{_LAN},dns=x", "'x' does not appear to be"),
    ],
)
def test_malformed_texts(text: str, problem: str) -> None:
    with pytest.raises(InvalidParameter, match=problem) as caught:
        parse_container_network(text)
    assert str(caught.value).startswith(f"{text}: ")
