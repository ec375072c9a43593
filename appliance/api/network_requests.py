"""The bodies of requests under /networks, and the record that a create request asks for."""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from appliance.container.fields import go_names
from appliance.errors import InvalidParameter, NotFound, Unsupported
from appliance.network.addresses import parse_subnet
from appliance.network.network_record import OVERLAY, SWARM, NetworkRecord, Pool


class IPAMPool(msgspec.Struct, kw_only=True, rename=go_names(ip_range="IPRange")):
    """A subnet by CIDR. `aux_address` is the name that API 1.20 had for `auxiliary_addresses`."""

    subnet: str = ""
    ip_range: str = ""
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = None
    aux_address: dict[str, str] | None = None


class IPAM(msgspec.Struct, kw_only=True, rename="pascal"):
    driver: str = ""
    options: dict[str, str] | None = None
    config: list[IPAMPool | None] | None = None


class ConfigReference(msgspec.Struct, rename="pascal"):
    network: str = ""


class NetworkCreateRequest(
    msgspec.Struct,
    kw_only=True,
    rename=go_names(ipam="IPAM", enable_ipv4="EnableIPv4", enable_ipv6="EnableIPv6"),
):
    name: str = ""
    check_duplicate: bool = False
    driver: str = ""
    scope: str = ""
    enable_ipv4: bool | UnsetType | None = UNSET
    enable_ipv6: bool = False
    ipam: IPAM = msgspec.field(default_factory=IPAM)
    internal: bool = False
    attachable: bool = False
    ingress: bool = False
    config_only: bool = False
    config_from: ConfigReference = msgspec.field(default_factory=ConfigReference)
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None

    def record(self) -> NetworkRecord:
        """The record of the network, without an id. InvalidParameter, NotFound and Unsupported name the field."""
        if not self.name.strip():
            raise InvalidParameter("invalid network name: name is empty")
        if self.config_only:
            raise Unsupported("ConfigOnly networks are not supported")
        if self.config_from.network:
            raise Unsupported("ConfigFrom is not supported")
        driver = self.driver or "bridge"
        scope = self.scope or (SWARM if driver == OVERLAY else "local")
        if scope not in ("local", SWARM) or (scope == SWARM and driver != OVERLAY):
            raise InvalidParameter(f"network scope {scope} is not supported for the driver {driver}")
        if self.enable_ipv4 is False:
            raise InvalidParameter("EnableIPv4=false is not supported: every network has IPv4")
        if self.ipam.driver not in ("", "default"):
            raise NotFound(f"could not find plugin {self.ipam.driver} in v1 plugin registry: plugin not found")
        pools = [pool for pool in map(_pool, filter(None, self.ipam.config or ())) if pool.subnet]
        return NetworkRecord(
            "",
            self.name,
            driver,
            0,
            pools,
            internal=self.internal,
            attachable=self.attachable,
            ipv6=self.enable_ipv6,
            own_subnet=bool(pools),
            labels=self.labels or {},
            options=self.options or {},
            ipam_options=self.ipam.options,
            scope=scope,
            ingress=self.ingress,
        )


class ConnectRequest(msgspec.Struct, kw_only=True, rename="pascal"):
    """`endpoint_config` is an EndpointSettings, see `endpoints.py`."""

    container: str = ""
    endpoint_config: Any = None


class DisconnectRequest(msgspec.Struct, kw_only=True, rename="pascal"):
    container: str = ""
    force: bool = False


def _pool(config: IPAMPool) -> Pool:
    if not config.subnet and (config.ip_range or config.gateway):
        raise InvalidParameter("invalid network config:\ninvalid subnet : invalid CIDR block notation")
    if config.ip_range:
        parse_subnet(config.ip_range)
    return Pool(config.subnet, config.ip_range, config.gateway, config.auxiliary_addresses or config.aux_address or {})
