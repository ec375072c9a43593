"""Routes under /networks."""

from appliance.api.backend import ConnectionBackend, NetworkBackend
from appliance.api.endpoints import decode_endpoint
from appliance.api.fields import read_struct
from appliance.api.filters import Filters, parse_filters
from appliance.api.network_requests import ConnectRequest, DisconnectRequest, NetworkCreateRequest
from appliance.api.network_shapes import network_shape
from appliance.api.patterns import matching_names
from appliance.api.router import Route
from appliance.errors import InvalidParameter, NotFound
from appliance.http import Reply, Request
from appliance.network.network_record import NetworkRecord


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
        filters = parse_filters(request.text("filters"), "GET /networks")
        for value in filters.values("type"):
            if value not in ("custom", "builtin"):
                raise InvalidParameter(f"invalid filter: 'type'='{value}'")
        dangling = _dangling(filters)
        records = self._networks.all()
        names = await matching_names(filters.values("name"), (record.name for record in records))
        ids = await matching_names(filters.values("id"), (record.id for record in records))

        def keep(record: NetworkRecord) -> bool:
            return (
                record.name in names
                and filters.shows(record.role)
                and record.id in ids
                and filters.exact("driver", record.driver)
                and filters.exact("scope", record.scope)
                and filters.exact("type", "builtin" if record.predefined else "custom")
                and (dangling is None or dangling == (not record.predefined and not self._networks.members(record)))
                and filters.labels(record.labels)
            )

        # Before API 1.28 the list shows the containers of each network.
        members = request.version < (1, 28)
        found = [
            network_shape(record, self._networks, request.version, members=members)
            for record in records
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
        wanted = await read_struct(request, NetworkCreateRequest, "a network is an object")
        record = wanted.record()
        # Before API 1.44 names need not be unique, unless the client says CheckDuplicate.
        same = next((one for one in self._networks.all() if one.name == record.name), None)
        unique = request.version >= (1, 44) or wanted.check_duplicate
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
        filters = parse_filters(request.text("filters"), "POST /networks/prune")
        until = filters.until()

        def wanted(record: NetworkRecord) -> bool:
            return (until is None or record.created <= until) and filters.labels(record.labels)

        removed = await self._networks.prune(wanted)
        await reply.json(200, {"NetworksDeleted": removed or None})

    async def connect(self, request: Request, reply: Reply) -> None:
        """POST /networks/{name}/connect."""
        wanted = await read_struct(request, ConnectRequest)
        settings = decode_endpoint(wanted.endpoint_config)
        await self._connections.connect(request.path["name"], wanted.container, settings)
        await reply.empty(200)

    async def disconnect(self, request: Request, reply: Reply) -> None:
        """POST /networks/{name}/disconnect."""
        wanted = await read_struct(request, DisconnectRequest)
        await self._connections.disconnect(request.path["name"], wanted.container, force=wanted.force)
        await reply.empty(200)


def _dangling(filters: Filters) -> bool | None:
    """The filter `dangling` of networks, which has texts of its own (moby daemon/network/filter.go)."""
    values = filters.values("dangling")
    if len(values) > 1:
        raise InvalidParameter('got more than one value for filter key "dangling"')
    if values and values[0] not in ("0", "1", "false", "true"):
        raise InvalidParameter('invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")')
    return values[0] in ("1", "true") if values else None
