"""Routes of swarms. A swarm has one node, for overlay networks. Services return 501: the hypervisor is the cluster."""

import platform
from typing import Any, Protocol

import msgspec

from appliance.api.backend import DaemonBackend
from appliance.api.fields import read_object, text_map
from appliance.api.filters import Filters, parse_filters
from appliance.api.router import ENGINE_VERSION, Route
from appliance.container.times import rfc3339
from appliance.errors import InvalidParameter, NotFound, Unsupported
from appliance.http import Reply, Request
from appliance.hypervisor import Capacity
from appliance.network.network_record import SwarmRecord

_NOUNS = ("services", "tasks", "secrets", "configs")
_REFUSED = "are not supported: a swarm has only networks here, the hypervisor is the cluster"
_SPEC = {
    "Name": "default", "Labels": {}, "Orchestration": {"TaskHistoryRetentionLimit": 5},
    "Raft": {"SnapshotInterval": 10000, "KeepOldSnapshots": 0, "LogEntriesForSlowFollowers": 500, "ElectionTick": 10, "HeartbeatTick": 1},
    "Dispatcher": {"HeartbeatPeriod": 5_000_000_000}, "CAConfig": {"NodeCertExpiry": 7_776_000_000_000_000}, "TaskDefaults": {},
    "EncryptionConfig": {"AutoLockManagers": False},
}  # fmt: skip
_INIT = (
    "ListenAddr",
    "AdvertiseAddr",
    "DataPathAddr",
    "DataPathPort",
    "DefaultAddrPool",
    "SubnetSize",
    "ForceNewCluster",
    "Spec",
    "AutoLockManagers",
    "Availability",
)


class SwarmBackend(Protocol):
    """engine.swarm."""

    record: SwarmRecord | None

    def manager(self) -> SwarmRecord: ...
    def check_node(self, ref: str) -> SwarmRecord: ...
    async def begin(
        self, advertise: str, listen: str, spec: msgspec.Raw, pools: list[str], subnet_bits: int
    ) -> SwarmRecord: ...
    async def leave(self, *, force: bool) -> None: ...
    async def update(self, version: int, spec: msgspec.Raw) -> None: ...
    async def update_node(self, ref: str, version: int, labels: dict[str, str]) -> None: ...


class SwarmRoutes:
    """The swarm, its only node, and the nouns that are always empty."""

    def __init__(self, swarm: SwarmBackend, daemon: DaemonBackend) -> None:
        self._swarm = swarm
        self._daemon = daemon

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        table: dict[tuple[str, str], Route] = {
            ("GET", "/swarm"): self.inspect,
            ("POST", "/swarm/init"): self.begin,
            ("POST", "/swarm/leave"): self.leave,
            ("POST", "/swarm/join"): self.join,
            ("POST", "/swarm/update"): self.update,
            ("POST", "/swarm/unlock"): self.unlock,
            ("GET", "/swarm/unlockkey"): self.unlock_key,
            ("GET", "/nodes"): self.list_nodes,
            ("GET", "/nodes/{name}"): self.inspect_node,
            ("POST", "/nodes/{name}/update"): self.update_node,
            ("DELETE", "/nodes/{name}"): self.remove_node,
        }
        for noun in _NOUNS:
            table[("GET", f"/{noun}")] = self.list_empty
            table[("GET", f"/{noun}/{{name}}")] = self.not_found
            table[("DELETE", f"/{noun}/{{name}}")] = self.not_found
            table[("POST", f"/{noun}/{{name}}/update")] = self.not_found
            table[("POST", f"/{noun}/create")] = self.refuse
        return table

    # -- the swarm ------------------------------------------------------------------------------------------------

    async def inspect(self, request: Request, reply: Reply) -> None:
        """GET /swarm."""
        # No token: no node can join.
        await reply.json(200, {**cluster_shape(self._swarm.manager()), "JoinTokens": {"Worker": "", "Manager": ""}})

    async def begin(self, request: Request, reply: Reply) -> None:
        """POST /swarm/init."""
        body = await read_object(request, _INIT)
        for key in ("DataPathAddr", "AutoLockManagers"):
            if body.get(key):
                raise Unsupported(f"{key} is not supported: the swarm has one node, and nothing to lock")
        if body.get("Availability") not in (None, "", "active"):
            raise Unsupported(f"Availability {body['Availability']} is not supported: services do not run here")
        pools, bits = body.get("DefaultAddrPool") or [], body.get("SubnetSize") or 0
        if not isinstance(pools, list) or not all(isinstance(one, str) for one in pools) or not isinstance(bits, int):
            raise InvalidParameter("invalid JSON: DefaultAddrPool is a list of strings, SubnetSize a number")
        texts = [body.get(key) or "" for key in ("AdvertiseAddr", "ListenAddr")]
        if not all(isinstance(text, str) for text in texts):
            raise InvalidParameter("invalid JSON: AdvertiseAddr and ListenAddr are strings")
        record = await self._swarm.begin(texts[0], texts[1], _spec(body.get("Spec")), pools, bits)
        await reply.json(200, record.node_id)

    async def leave(self, request: Request, reply: Reply) -> None:
        """POST /swarm/leave."""
        await self._swarm.leave(force=request.flag("force"))
        await reply.empty(200)

    async def join(self, request: Request, reply: Reply) -> None:
        """POST /swarm/join."""
        raise Unsupported("joining a swarm is not supported: the hypervisor is the cluster")

    async def update(self, request: Request, reply: Reply) -> None:
        """POST /swarm/update."""
        for key in ("rotateWorkerToken", "rotateManagerToken", "rotateManagerUnlockKey"):
            if request.flag(key):
                raise Unsupported(f"{key} is not supported: no node can join")
        self._swarm.manager()
        await self._swarm.update(_version(request), _spec(await request.json()))
        await reply.empty(200)

    async def unlock(self, request: Request, reply: Reply) -> None:
        """POST /swarm/unlock."""
        self._swarm.manager()
        await reply.json(409, {"message": "swarm is not locked"})

    async def unlock_key(self, request: Request, reply: Reply) -> None:
        """GET /swarm/unlockkey."""
        self._swarm.manager()
        await reply.json(200, {"UnlockKey": ""})

    # -- the node -------------------------------------------------------------------------------------------------

    async def list_nodes(self, request: Request, reply: Reply) -> None:
        """GET /nodes."""
        filters = parse_filters(request.text("filters"), "GET /nodes")
        for key, known in (("role", ("manager", "worker")), ("membership", ("accepted", "pending"))):
            for value in filters.values(key):
                if value and value.lower() not in known:
                    raise InvalidParameter(f"Invalid {key} filter: '{value}'")
        record = self._swarm.manager()
        await reply.json(200, [node_shape(record, await self._daemon.capacity())] if _passes(record, filters) else [])

    async def inspect_node(self, request: Request, reply: Reply) -> None:
        """GET /nodes/{name}."""
        record = self._swarm.check_node(request.path["name"])
        await reply.json(200, node_shape(record, await self._daemon.capacity()))

    async def update_node(self, request: Request, reply: Reply) -> None:
        """POST /nodes/{name}/update."""
        self._swarm.check_node(request.path["name"])
        body = await read_object(request, ("Name", "Labels", "Role", "Availability"))
        if body.get("Role") not in (None, "", "manager") or body.get("Availability") not in (None, "", "active"):
            raise Unsupported("the role and availability of the only node cannot be changed")
        await self._swarm.update_node(request.path["name"], _version(request), text_map(body, "Labels"))
        await reply.empty(200)

    async def remove_node(self, request: Request, reply: Reply) -> None:
        """DELETE /nodes/{name}."""
        record = self._swarm.check_node(request.path["name"])
        raise InvalidParameter(f"node {record.node_id} is a cluster manager and is a member of the raft cluster")

    # -- services, tasks, secrets, configs ---------------------------------------------------------------------------------

    async def list_empty(self, request: Request, reply: Reply) -> None:
        """GET /services, /tasks, /secrets, /configs."""
        parse_filters(request.text("filters"), f"GET {next(f'/{noun}' for noun in _NOUNS if noun in request.raw_path)}")
        self._swarm.manager()
        await reply.json(200, [])

    async def not_found(self, request: Request, reply: Reply) -> None:
        """Anything about one service, task, secret or config."""
        self._swarm.manager()
        raise NotFound(f"{_noun(request).removesuffix('s')} {request.path['name']} not found")

    async def refuse(self, request: Request, reply: Reply) -> None:
        """POST /services/create and the like."""
        self._swarm.manager()
        raise Unsupported(f"{_noun(request)} {_REFUSED}")


def _noun(request: Request) -> str:
    return next(noun for noun in _NOUNS if f"/{noun}/" in request.raw_path)


def _version(request: Request) -> int:
    text = request.text("version")
    if not text.isdecimal():
        raise InvalidParameter(f"invalid swarm version '{text}'")
    return int(text)


def _spec(given: Any) -> msgspec.Raw:
    """A complete SwarmSpec. InvalidParameter or Unsupported names the field."""
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InvalidParameter("invalid JSON: Spec is not an object")
    if given.get("Name") not in (None, "", "default"):
        raise InvalidParameter(f'swarm spec must be named "default", not {given["Name"]!r}')
    if (given.get("EncryptionConfig") or {}).get("AutoLockManagers"):
        raise Unsupported("AutoLockManagers is not supported: the swarm has nothing to lock")
    spec = {key: _filled(given.get(key), default) for key, default in _SPEC.items()}
    return msgspec.Raw(msgspec.json.encode({**spec, "Name": "default", "Labels": text_map(given, "Labels")}))


def _filled(given: Any, default: Any) -> Any:
    """The given value, with defaults for what is absent. The CLI sends 0 for a default."""
    if isinstance(default, dict) and isinstance(given, dict):
        return {**default, **{key: value for key, value in given.items() if value}}
    return given or default


def cluster_shape(record: SwarmRecord) -> dict[str, Any]:
    """ClusterInfo."""
    return {
        "ID": record.id,
        "Version": {"Index": record.version},
        "CreatedAt": rfc3339(record.created),
        "UpdatedAt": rfc3339(record.updated),
        "Spec": record.spec,
        "TLSInfo": {"TrustRoot": "", "CertIssuerSubject": "", "CertIssuerPublicKey": ""},
        "RootRotationInProgress": False,
        "DefaultAddrPool": record.pools,
        "SubnetSize": record.subnet_bits,
        "DataPathPort": 4789,
    }


def node_shape(record: SwarmRecord, capacity: Capacity) -> dict[str, Any]:
    """Node."""
    return {
        "ID": record.node_id,
        "Version": {"Index": record.version},
        "CreatedAt": rfc3339(record.created),
        "UpdatedAt": rfc3339(record.updated),
        "Spec": record.node,
        "Description": {
            "Hostname": platform.node(),
            "Platform": {"Architecture": "x86_64", "OS": "linux"},
            "Resources": {"NanoCPUs": capacity.cpus * 10**9, "MemoryBytes": capacity.memory},
            "Engine": {
                "EngineVersion": ENGINE_VERSION,
                "Plugins": [{"Type": "Network", "Name": name} for name in ("bridge", "host", "null", "overlay")]
                + [{"Type": "Volume", "Name": "local"}],
            },
            "TLSInfo": {"TrustRoot": "", "CertIssuerSubject": "", "CertIssuerPublicKey": ""},
        },
        "Status": {"State": "ready", "Addr": record.address},
        "ManagerStatus": {"Leader": True, "Reachability": "reachable", "Addr": record.listen},
    }


def _passes(record: SwarmRecord, filters: Filters) -> bool:
    """Whether the only node, an accepted manager whose engine has no labels, passes the filters of `GET /nodes`."""
    roles, memberships = filters.values("role"), filters.values("membership")
    return (
        filters.prefix("id", record.node_id)
        and filters.prefix("name", platform.node())
        and (not any(roles) or "manager" in map(str.lower, roles))
        and (not any(memberships) or "accepted" in map(str.lower, memberships))
        and filters.has_labels("label", {})
        and filters.has_labels("node.label", record.node.labels or {})
    )


def info_shape(record: SwarmRecord | None) -> dict[str, Any]:
    """The member `Swarm` of `docker info`."""
    if record is None:
        return {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": False,
            "Error": "",
            "RemoteManagers": None,
        }
    return {
        "NodeID": record.node_id,
        "NodeAddr": record.address,
        "LocalNodeState": "active",
        "ControlAvailable": True,
        "Error": "",
        "RemoteManagers": [{"NodeID": record.node_id, "Addr": record.listen}],
        "Nodes": 1,
        "Managers": 1,
        "Cluster": cluster_shape(record),
    }
