"""The networks of a scope: those that were made in the scope, and the predefined networks `bridge` and `none`."""

from collections.abc import Callable, Sequence

from appliance.api.backend import ConnectionBackend, Container, ContainerRegistry, NetworkBackend
from appliance.container.container_record import LIKE_AN_ID
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.prune_guard import PruneGuard
from appliance.errors import Forbidden, InvalidParameter
from appliance.network.network_record import OPTION_BRIDGE, Endpoint, NetworkRecord, find_network


class ScopedNetworks:
    """The networks of a scope, as a NetworkBackend. The members of a network are those of the scope."""

    def __init__(self, backend: NetworkBackend, scope: str) -> None:
        self._backend = backend
        self._scope = scope

    @property
    def bridged(self) -> bool:
        return self._backend.bridged

    @property
    def pruning(self) -> PruneGuard:
        return self._backend.pruning

    def all(self) -> list[NetworkRecord]:
        # Not `host`, which would publish whatever a container listens at.
        return [one for one in self._backend.all() if one.name in ("bridge", "none") or one.owner == self._scope]

    def get(self, ref: str) -> NetworkRecord:
        """See find_network. Names and prefixes are unique in the scope."""
        return find_network(self.all(), ref)

    def pinned(self, ref: str) -> str:
        """A reference that means the same network for a client that sees all: the name if it is unique, else the id."""
        record = self.get(ref)
        same = [one for one in self._backend.all() if one.name == record.name]
        return record.name if ref == record.name and len(same) == 1 else record.id

    def members(self, record: NetworkRecord) -> Sequence[tuple[Container, Endpoint]]:
        return [member for member in self._backend.members(record) if member[0].record.owner == self._scope]

    async def create(self, wanted: NetworkRecord, *, unique: bool) -> NetworkRecord:
        """See NetworkBackend. The name is always unique: a second network of a name would make the name ambiguous for others."""
        if wanted.driver != "bridge":
            raise Forbidden(
                f"authorization denied: a scoped client may not make networks with the driver {wanted.driver}"
            )
        if OPTION_BRIDGE in wanted.options:
            raise Forbidden(f"authorization denied: a scoped client may not use the network option {OPTION_BRIDGE}")
        if LIKE_AN_ID.fullmatch(wanted.name):
            raise InvalidParameter(f"invalid network name: {wanted.name}: names that look like an ID are not allowed")
        wanted.owner = self._scope
        return await self._backend.create(wanted, unique=True)

    async def remove(self, ref: str) -> None:
        await self._backend.remove(self.get(ref).id)

    async def prune(self, wanted: Callable[[NetworkRecord], bool]) -> list[str]:
        return await self._backend.prune(lambda record: record.owner == self._scope and wanted(record))


class ScopedConnections:
    """Connects containers of a scope to networks of the scope."""

    def __init__(self, backend: ConnectionBackend, containers: ContainerRegistry, networks: ScopedNetworks) -> None:
        self._backend = backend
        self._containers = containers
        self._networks = networks

    async def connect(self, network: str, ref: str, settings: EndpointSettings) -> None:
        await self._backend.connect(self._networks.get(network).id, self._containers.get(ref).id, settings)

    async def disconnect(self, network: str, ref: str, *, force: bool) -> None:
        await self._backend.disconnect(self._networks.get(network).id, self._containers.get(ref).id, force=force)
