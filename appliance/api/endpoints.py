"""EndpointSettings that a client sends, decoded and checked."""

import ipaddress
from typing import Any

from appliance.api.config_checks import check_mac
from appliance.container.endpoint_settings import EndpointIPAMConfig, EndpointSettings
from appliance.container.go_json import convert, fold
from appliance.errors import InvalidParameter

_REQUESTED = frozenset(EndpointSettings.__struct_encode_fields__)
# Members of an inspect answer that a client sends back; they have no effect.
_STATE = frozenset(
    (
        "networkid",
        "endpointid",
        "gateway",
        "ipaddress",
        "ipprefixlen",
        "ipv6gateway",
        "globalipv6address",
        "globalipv6prefixlen",
        "dnsnames",
    )
)


def decode_endpoint(given: Any) -> EndpointSettings:
    """The settings without what is empty; unknown members have no effect. InvalidParameter names what is wrong."""
    if given is None:
        return EndpointSettings()
    if not isinstance(given, dict):
        raise InvalidParameter("invalid JSON: EndpointSettings is not an object")
    fold(given, EndpointSettings)
    settings = convert(given, EndpointSettings, "EndpointSettings")
    if settings.ipam_config == EndpointIPAMConfig():
        settings.ipam_config = None
    settings.links, settings.aliases = settings.links or None, settings.aliases or None
    settings.driver_opts = settings.driver_opts or None
    for address in (settings.ipam_config or EndpointIPAMConfig()).link_local_ips or ():
        try:
            sound = ipaddress.ip_address(address).is_link_local
        except ValueError:
            sound = False
        if not sound:
            raise InvalidParameter(f"invalid link-local IP address: {address}")
    check_mac(settings.mac_address)
    return settings


def decode_endpoints(given: Any) -> tuple[dict[str, EndpointSettings], list[str]]:
    """NetworkingConfig.EndpointsConfig, by a network's name or id, and warnings."""
    if not isinstance(given, dict):
        raise InvalidParameter("invalid JSON: EndpointsConfig is not an object")
    endpoints = {name: decode_endpoint(settings) for name, settings in given.items()}
    warnings = [
        f"endpoint option {option} of network {name} has no effect"
        for name, settings in endpoints.items()
        for option in settings.driver_opts or ()
    ]
    for network, settings in given.items():
        warnings += [
            f"{name} of network {network} is not known here and was ignored"
            for name, value in (settings or {}).items()
            if value and name not in _REQUESTED and name.lower() not in _STATE
        ]
    return endpoints, warnings
