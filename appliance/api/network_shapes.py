"""Networks as Docker's JSON, by API version."""

from typing import Any

from appliance.api.backend import NetworkBackend
from appliance.api.router import Version
from appliance.container.times import rfc3339
from appliance.network.network_record import NetworkRecord


def network_shape(
    record: NetworkRecord, networks: NetworkBackend, version: Version, *, members: bool
) -> dict[str, Any]:
    """A network; with `members`, also the containers on it."""
    configs = []
    for pool in record.pools:
        config: dict[str, Any] = {"Subnet": pool.subnet}
        if pool.ip_range:
            config["IPRange"] = pool.ip_range
        if pool.gateway or not record.is_external:
            config["Gateway"] = pool.gateway
        if pool.aux:
            config["AuxiliaryAddresses"] = pool.aux
        configs.append(config)
    options = dict(record.options)
    if record.name == "bridge":
        options = {
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
            "com.docker.network.bridge.name": record.bridge,
            "com.docker.network.driver.mtu": "1500",
            **options,
        }
    if record.is_external:
        options = {"vch.network": record.bridge, "vch.firewall": record.firewall, "vch.dns": ",".join(record.dns)}
    shape: dict[str, Any] = {
        "Name": record.name,
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Scope": record.scope,
        "Driver": record.driver,
        "EnableIPv6": record.ipv6,
        "IPAM": {
            "Driver": "dhcp" if record.dhcp else "default",
            "Options": record.ipam_options,
            # dockerd 28 shows null for host and none. Its API description has a list, and so did dockerd 20.
            "Config": configs if record.driver not in ("host", "null") else [],
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": record.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": options,
        "Labels": record.labels,
    }
    if version >= (1, 48):
        shape["EnableIPv4"] = record.ipv4
    if members:
        shape["Containers"] = {
            container.id: {
                "Name": container.record.name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": endpoint.ipv4.cidr if endpoint.ipv4 is not None else "",
                "IPv6Address": endpoint.ipv6.cidr if endpoint.ipv6 is not None else "",
            }
            for container, endpoint in networks.members(record)
        }
    return shape
