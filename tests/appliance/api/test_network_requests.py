"""Bodies under /networks."""

from typing import Any

import pytest

from appliance.api.endpoints import decode_endpoint, decode_endpoints
from appliance.api.network_requests import NetworkCreateRequest
from appliance.container.endpoint_settings import EndpointIPAMConfig, EndpointSettings
from appliance.container.go_json import convert, fold
from appliance.errors import InvalidParameter, NotFound, Unsupported
from appliance.network.network_record import NetworkRecord, Pool


def _record(given: dict[str, Any]) -> NetworkRecord:
    fold(given, NetworkCreateRequest)
    return convert(given, NetworkCreateRequest).record()


def test_a_network_with_everything() -> None:
    pool = {
        "subnet": "10.1.0.0/16",
        "iprange": "10.1.2.0/24",
        "Gateway": "10.1.0.9",
        "AuxiliaryAddresses": {"a": "10.1.0.3"},
    }
    found = _record(
        {
            "name": "n",
            "IPAM": {"Driver": "default", "Options": {"o": "p"}, "Config": [None, pool, {}]},
            "enableipv6": True,
            "Internal": True,
            "Options": {"c": "d"},
            "Labels": None,
        }
    )
    assert found == NetworkRecord(
        "",
        "n",
        "bridge",
        0,
        [Pool("10.1.0.0/16", "10.1.2.0/24", "10.1.0.9", {"a": "10.1.0.3"})],
        internal=True,
        ipv6=True,
        own_subnet=True,
        options={"c": "d"},
        ipam_options={"o": "p"},
    )
    assert _record({"Name": "n"}) == NetworkRecord("", "n", "bridge", 0)
    assert _record({"Name": "n", "Driver": "overlay"}).scope == "swarm"


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, InvalidParameter, "name is empty"),
        ({"Name": 5}, InvalidParameter, "Name is not a string"),
        ({"Name": "n", "Internal": "x"}, InvalidParameter, "Internal is not a boolean"),
        ({"Name": "n", "Labels": {"a": 1}}, InvalidParameter, "Labels is not a map of strings"),
        ({"Name": "n", "IPAM": []}, InvalidParameter, "IPAM is not an object"),
        ({"Name": "n", "IPAM": {"Config": [5]}}, InvalidParameter, "an item of Config in IPAM is not an object"),
        ({"Name": "n", "IPAM": {"Config": [{"Gateway": "10.0.0.1"}]}}, InvalidParameter, "invalid subnet"),
        ({"Name": "n", "IPAM": {"Driver": "x"}}, NotFound, "could not find plugin x"),
        ({"Name": "n", "Scope": "global"}, InvalidParameter, "network scope global is not supported"),
        ({"Name": "n", "EnableIPv4": False}, InvalidParameter, "every network has IPv4"),
        ({"Name": "n", "ConfigOnly": True}, Unsupported, "ConfigOnly"),
        ({"Name": "n", "ConfigFrom": {"Network": "x"}}, Unsupported, "ConfigFrom"),
    ],
)
def test_a_network_that_cannot_be(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        _record(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, EndpointSettings()),
        ({"Aliases": [], "Links": None, "IPAMConfig": {}, "DriverOpts": {}}, EndpointSettings()),
        ({"networkid": "x", "Gateway": "y", "DNSNames": ["z"]}, EndpointSettings()),
        ({"aliases": ["a"], "GWPRIORITY": 3}, EndpointSettings(aliases=["a"], gw_priority=3)),
        (
            {"IPAMConfig": {"LinkLocalIPs": ["169.254.1.2"]}},
            EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.1.2"])),
        ),
    ],
)
def test_endpoint_settings(given: Any, expected: EndpointSettings) -> None:
    assert decode_endpoint(given) == expected


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (5, "EndpointSettings is not an object"),
        ({"Aliases": [1]}, "invalid JSON: Aliases in EndpointSettings is not a list of strings"),
        ({"IPAMConfig": {"IPv4Address": 5}}, "invalid JSON: IPv4Address in IPAMConfig is not a string"),
        ({"IPAMConfig": {"LinkLocalIPs": ["1.2.3.4"]}}, "invalid link-local IP address: 1.2.3.4"),
        ({"MacAddress": "x"}, "invalid MAC address: x"),
    ],
)
def test_endpoint_settings_that_cannot_be(given: Any, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        decode_endpoint(given)


def test_driver_options_of_an_endpoint_have_no_effect() -> None:
    endpoints, warnings = decode_endpoints({"n": {"DriverOpts": {"a": "b"}}, "m": None})
    assert endpoints == {"n": EndpointSettings(driver_opts={"a": "b"}), "m": EndpointSettings()}
    assert warnings == ["endpoint option a of network n has no effect"]


def test_unknown_members_of_an_endpoint_are_ignored() -> None:
    endpoints, warnings = decode_endpoints({"n": {"Nonsense": 1, "IPAddress": "10.0.0.1", "aliases": ["a"], "y": 0}})
    assert endpoints == {"n": EndpointSettings(aliases=["a"])}
    assert warnings == ["Nonsense of network n is not known here and was ignored"]
