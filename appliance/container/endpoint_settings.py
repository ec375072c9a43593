"""Docker's EndpointSettings: what a client asks for a container on one network. What the network answers is in the attachment."""

import msgspec
from msgspec import UNSET, UnsetType

from appliance.container.fields import Int64, go_names


class EndpointIPAMConfig(
    msgspec.Struct,
    kw_only=True,
    frozen=True,
    rename=go_names(ipv4_address="IPv4Address", ipv6_address="IPv6Address", link_local_ips="LinkLocalIPs"),
):
    """Fixed addresses; an absent member is UNSET, since inspect shows the object as it was given."""

    ipv4_address: str | UnsetType = UNSET
    ipv6_address: str | UnsetType = UNSET
    link_local_ips: list[str] | UnsetType | None = UNSET


class EndpointSettings(
    msgspec.Struct,
    kw_only=True,
    omit_defaults=True,
    rename=go_names(ipam_config="IPAMConfig"),
):
    """`links` are "container[:alias]"; `mac_address` empty: vchd chooses one; the highest `gw_priority` leads to the outside."""

    ipam_config: EndpointIPAMConfig | None = None
    links: list[str] | None = None
    aliases: list[str] | None = None
    mac_address: str = ""
    driver_opts: dict[str, str] | None = None
    gw_priority: Int64 = 0
