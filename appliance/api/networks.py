"""Routes under /networks."""

import time
from typing import Any

from appliance.api.backend import ConnectionBackend, NetworkBackend
from appliance.api.endpoints import decode_endpoint
from appliance.api.fields import fold_names, read_object, text_map
from appliance.api.filters import any_of, boolean_filter, matches_label_filters, matches_pattern, parse_filters
from appliance.api.network_shapes import network_shape
from appliance.api.router import Route
from appliance.api.times import parse_time
from appliance.errors import InvalidParameter, NotFound, Unsupported
from appliance.http import Reply, Request
from appliance.network.addresses import parse_subnet
from appliance.network.network_record import OVERLAY, SWARM, NetworkRecord, Pool

_FILTERS = frozenset(("dangling", "driver", "id", "label", "label!", "name", "scope", "type"))
_FIELDS = (
    "Name", "Driver", "Scope", "Internal", "Attachable", "Ingress", "ConfigOnly", "ConfigFrom", "IPAM", "EnableIPv4", "EnableIPv6",
    "Options", "Labels", "CheckDuplicate",
)  # fmt: skip


class NetworkRoutes:
    """Networks, and which containers are connected to them."""

    def __init__(self, networks: NetworkBackend, connections: ConnectionBackend) -> None:
        self._networks = networks
        self._connections = connections

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        name = "/networks/{name}"
        return {
            ("GET", "/networks"): self.list_all,
            ("GET", "/networks/json"): self.list_all,
            ("POST", "/networks/create"): self.create,
            ("POST", "/networks/prune"): self.prune,
            ("GET", name): self.inspect,
            ("DELETE", name): self.remove,
            ("POST", f"{name}/connect"): self.connect,
            ("POST", f"{name}/disconnect"): self.disconnect,
        }

    async def list_all(self, request: Request, reply: Reply) -> None:
        """GET /networks."""
        filters = parse_filters(request.text("filters"), _FILTERS)
        for value in filters.get("type", ()):
            if value not in ("custom", "builtin"):
                raise InvalidParameter(f"invalid filter: 'type'='{value}'")
        dangling = boolean_filter(filters, "dangling")

        def keep(record: NetworkRecord) -> bool:
            unused = not record.predefined and not self._networks.members(record)
            return (
                (not filters.get("name") or matches_pattern(filters["name"], record.name))
                and any_of(filters.get("id", []), record.id.startswith)
                and any_of(filters.get("driver", []), lambda driver: driver == record.driver)
                and any_of(filters.get("scope", []), lambda scope: scope == record.scope)
                and any_of(filters.get("type", []), lambda kind: (kind == "builtin") == record.predefined)
                and dangling in (None, unused)
                and matches_label_filters(filters, record.labels)
            )

        # Before API 1.28 the list shows the containers of each network.
        members = request.version < (1, 28)
        found = [
            network_shape(record, self._networks, request.version, members=members)
            for record in self._networks.all()
            if keep(record)
        ]
        await reply.json(200, found)

    async def inspect(self, request: Request, reply: Reply) -> None:
        """GET /networks/{name}."""
        record = self._networks.get(request.path["name"])
        if request.text("scope") not in ("", record.scope):
            raise NotFound(f"network {request.path['name']} not found")
        await reply.json(200, network_shape(record, self._networks, request.version, members=True))

    async def create(self, request: Request, reply: Reply) -> None:
        """POST /networks/create."""
        body = await request.json()
        if not isinstance(body, dict):
            raise InvalidParameter("invalid JSON: a network is an object")
        fold_names(body, _FIELDS)
        record = _decode(body)
        # Before API 1.44 names need not be unique, unless the client says CheckDuplicate.
        same = next((one for one in self._networks.all() if one.name == record.name), None)
        unique = request.version >= (1, 44) or bool(body.get("CheckDuplicate"))
        made = await self._networks.create(record, unique=unique)
        unused = [pool.subnet for pool in made.pools if pool not in made.used_pools]
        warning = f"subnet {unused[0]} is not used: IPv6 is not enabled" if unused else ""
        if same is not None:
            warning = f"Network with name {same.name} (id : {same.id}) already exists"
        await reply.json(201, {"Id": made.id, "Warning": warning})

    async def remove(self, request: Request, reply: Reply) -> None:
        """DELETE /networks/{name}."""
        await self._networks.remove(request.path["name"])
        await reply.empty(204)

    async def prune(self, request: Request, reply: Reply) -> None:
        """POST /networks/prune."""
        filters = parse_filters(request.text("filters"), frozenset(("label", "label!", "until")))
        until = parse_time(filters["until"][0], now=time.time_ns()) if filters.get("until") else None

        def wanted(record: NetworkRecord) -> bool:
            return (until is None or record.created < until) and matches_label_filters(filters, record.labels)

        removed = await self._networks.prune(wanted)
        await reply.json(200, {"NetworksDeleted": removed or None})

    async def connect(self, request: Request, reply: Reply) -> None:
        """POST /networks/{name}/connect."""
        body = await read_object(request, ("Container", "EndpointConfig"))
        settings = decode_endpoint(body.get("EndpointConfig"))
        await self._connections.connect(request.path["name"], str(body.get("Container") or ""), settings)
        await reply.empty(200)

    async def disconnect(self, request: Request, reply: Reply) -> None:
        """POST /networks/{name}/disconnect."""
        body = await read_object(request, ("Container", "Force"))
        force = bool(body.get("Force"))
        await self._connections.disconnect(request.path["name"], str(body.get("Container") or ""), force=force)
        await reply.empty(200)


def _decode(body: dict[str, Any]) -> NetworkRecord:
    """A record from NetworkCreateRequest. InvalidParameter and Unsupported name the field."""
    name, driver = body.get("Name") or "", body.get("Driver") or "bridge"
    if not isinstance(name, str) or not isinstance(driver, str):
        raise InvalidParameter("invalid JSON: Name and Driver are strings")
    if not name.strip():
        raise InvalidParameter("invalid network name: name is empty")
    if body.get("ConfigOnly"):
        raise Unsupported("ConfigOnly networks are not supported")
    source = body.get("ConfigFrom") or {}
    if not isinstance(source, dict):
        raise InvalidParameter("invalid JSON: ConfigFrom is not an object")
    fold_names(source, ("Network",))
    if source.get("Network"):
        raise Unsupported("ConfigFrom is not supported")
    scope = body.get("Scope") or (SWARM if driver == OVERLAY else "local")
    if scope not in ("local", SWARM) or (scope == SWARM and driver != OVERLAY):
        raise InvalidParameter(f"network scope {scope} is not supported for the driver {driver}")
    if body.get("EnableIPv4") is False:
        raise InvalidParameter("EnableIPv4=false is not supported: every network has IPv4")
    ipam = body.get("IPAM") or {}
    if not isinstance(ipam, dict):
        raise InvalidParameter("invalid JSON: IPAM is not an object")
    fold_names(ipam, ("Driver", "Config", "Options"))
    if ipam.get("Driver") not in (None, "", "default"):
        raise NotFound(f"could not find plugin {ipam['Driver']} in v1 plugin registry: plugin not found")
    configs = ipam.get("Config") or []
    if not isinstance(configs, list):
        raise InvalidParameter("invalid JSON: Config of IPAM is a list of objects")
    pools = [pool for pool in map(_pool, filter(None, configs)) if pool.subnet]
    return NetworkRecord(
        "",
        name,
        driver,
        0,
        pools,
        internal=bool(body.get("Internal")),
        attachable=bool(body.get("Attachable")),
        ipv6=bool(body.get("EnableIPv6")),
        own_subnet=bool(pools),
        labels=text_map(body, "Labels"),
        options=text_map(body, "Options"),
        ipam_options=text_map(ipam, "Options") if ipam.get("Options") is not None else None,
        scope=scope,
        ingress=bool(body.get("Ingress")),
    )


def _pool(config: Any) -> Pool:
    if not isinstance(config, dict):
        raise InvalidParameter("invalid JSON: Config of IPAM is a list of objects")
    fold_names(config, ("Subnet", "IPRange", "Gateway", "AuxiliaryAddresses", "AuxAddress"))
    texts = [config.get(key) or "" for key in ("Subnet", "IPRange", "Gateway")]
    if not all(isinstance(text, str) for text in texts):
        raise InvalidParameter("invalid JSON: Subnet, IPRange and Gateway are strings")
    if not texts[0] and any(texts):
        raise InvalidParameter("invalid network config:\ninvalid subnet : invalid CIDR block notation")
    aux = config.get("AuxiliaryAddresses") or config.get("AuxAddress") or {}
    if not isinstance(aux, dict):
        raise InvalidParameter("invalid JSON: AuxiliaryAddresses is not an object")
    subnet, ip_range, gateway = texts
    if ip_range:
        parse_subnet(ip_range)
    return Pool(subnet, ip_range, gateway, {str(key): str(value) for key, value in aux.items()})
