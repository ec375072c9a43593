"""Routes of networks, with a backend in memory."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from appliance.api.network_shapes import network_shape
from appliance.api.networks import NetworkRoutes
from appliance.container.prune_guard import PruneGuard
from appliance.errors import NotFound
from appliance.network.network_record import NetworkRecord, Pool
from tests.appliance.api.asking import ask


class _Networks:
    """A NetworkBackend and a ConnectionBackend without containers."""

    bridged = True

    def __init__(self, *records: NetworkRecord) -> None:
        self.records = list(records)
        self.calls: list[Any] = []
        self.pruning = PruneGuard()

    def all(self) -> list[NetworkRecord]:
        return list(self.records)

    def get(self, ref: str) -> NetworkRecord:
        for record in self.records:
            if ref in (record.name, record.id):
                return record
        raise NotFound(f"network {ref} not found")

    def members(self, record: NetworkRecord) -> Sequence[Any]:
        return ()

    async def create(self, wanted: NetworkRecord, *, unique: bool) -> NetworkRecord:
        wanted.id = "new"
        self.calls.append((wanted, unique))
        return wanted

    async def remove(self, ref: str) -> None:
        self.records.remove(self.get(ref))

    async def prune(self, wanted: Callable[[NetworkRecord], bool]) -> list[str]:
        return [record.name for record in self.records if not record.predefined and wanted(record)]

    async def connect(self, network: str, ref: str, settings: Any) -> None:
        self.calls.append((network, ref))

    async def disconnect(self, network: str, ref: str, *, force: bool) -> None:
        self.calls.append((network, ref, force))


def _backend() -> _Networks:
    return _Networks(
        NetworkRecord("id1", "bridge", "bridge", 1),
        NetworkRecord("id2", "front", "bridge", 5, [Pool("10.9.0.0/24", gateway="10.9.0.1")], labels={"a": "b"}),
    )


async def _ask(line: str, body: Any = None, networks: _Networks | None = None) -> tuple[int, Any]:
    networks = networks or _backend()
    return await ask(NetworkRoutes(networks, networks).routes(), line, body)


@pytest.mark.parametrize(
    ("filters", "names"),
    [
        ("{}", ["bridge", "front"]),
        ('{"name":["ron"]}', ["front"]),
        ('{"id":["id1"]}', ["bridge"]),
        ('{"type":["builtin"]}', ["bridge"]),
        ('{"type":["custom"]}', ["front"]),
        ('{"driver":["overlay"]}', []),
        ('{"scope":["local"]}', ["bridge", "front"]),
        ('{"label":["a=b"]}', ["front"]),
        ('{"type":["custom","builtin"]}', ["bridge", "front"]),
        ('{"id":["d1$"]}', ["bridge"]),
        ('{"name":["(a+)+$"]}', []),
        ('{"dangling":["1"]}', ["front"]),
        ('{"dangling":["false"]}', ["bridge"]),
        ('{"dangling":[]}', ["bridge", "front"]),
    ],
)
async def test_lists_and_filters(filters: str, names: list[str]) -> None:
    status, found = await _ask(f"GET /networks?filters={filters}")
    assert (status, [shape["Name"] for shape in found]) == (200, names)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('GET /networks?filters={"label!":["a"]}', "invalid filter 'label!'"),
        ('GET /networks?filters={"type":["x"]}', "invalid filter: 'type'='x'"),
        ('GET /networks?filters={"dangling":["1","0"]}', 'got more than one value for filter key "dangling"'),
        (
            'GET /networks?filters={"dangling":["x"]}',
            'invalid value for filter \'dangling\', must be "true" (or "1"), or "false" (or "0")',
        ),
        ('POST /networks/prune?filters={"name":["front"]}', "invalid filter 'name'"),
        ('POST /networks/prune?filters={"until":["1h","2h"]}', "more than one until filter specified"),
        ('POST /networks/prune?filters={"until":[]}', "invalid filter 'until'"),
    ],
)
async def test_filters_that_are_refused(line: str, message: str) -> None:
    assert await _ask(line) == (400, {"message": message})


async def test_inspect() -> None:
    status, shape = await _ask("GET /networks/front")
    assert (status, shape["Id"], shape["IPAM"]["Config"]) == (
        200,
        "id2",
        [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}],
    )
    assert (await _ask("GET /networks/front?scope=swarm"))[0] == 404
    assert await _ask("GET /networks/none") == (404, {"message": "network none not found"})


async def test_create() -> None:
    networks = _backend()
    body = {
        "name": "back",
        "internal": True,
        "enableipv6": True,
        "IPAM": {
            "config": [
                {
                    "subnet": "10.8.0.0/24",
                    "iprange": "10.8.0.0/28",
                    "Gateway": "10.8.0.9",
                    "AuxAddress": {"x": "10.8.0.7"},
                }
            ]
        },
        "Options": {"com.docker.network.driver.mtu": "1400"},
    }
    assert await _ask("POST /networks/create", body, networks) == (201, {"Id": "new", "Warning": ""})
    record, unique = networks.calls[0]
    assert unique
    assert record.pools == [Pool("10.8.0.0/24", "10.8.0.0/28", "10.8.0.9", {"x": "10.8.0.7"})]
    assert (record.name, record.driver, record.internal, record.ipv6, record.own_subnet, record.mtu) == (
        "back",
        "bridge",
        True,
        True,
        True,
        1400,
    )


async def test_warnings_of_create() -> None:
    status, body = await _ask("POST /v1.43/networks/create", {"Name": "front"})
    assert (status, body["Warning"]) == (201, "Network with name front (id : id2) already exists")
    ipam = {"Config": [{"Subnet": "fd00::/64"}]}
    status, body = await _ask("POST /networks/create", {"Name": "back", "IPAM": ipam})
    assert (status, body["Warning"]) == (201, "subnet fd00::/64 is not used: IPv6 is not enabled")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ([], 400, "invalid JSON: a network is an object"),
        ({"Name": 5}, 400, "invalid JSON: Name is not a string"),
        ({"Name": " "}, 400, "invalid network name: name is empty"),
        ({"Name": "x", "ConfigOnly": True}, 501, "ConfigOnly networks are not supported"),
        ({"Name": "x", "ConfigFrom": {"Network": "y"}}, 501, "ConfigFrom is not supported"),
        ({"Name": "x", "ConfigFrom": 5}, 400, "invalid JSON: ConfigFrom is not an object"),
        ({"Name": "x", "Scope": "swarm"}, 400, "network scope swarm is not supported for the driver bridge"),
        ({"Name": "x", "EnableIPv4": False}, 400, "EnableIPv4=false is not supported: every network has IPv4"),
        ({"Name": "x", "IPAM": 5}, 400, "invalid JSON: IPAM is not an object"),
        ({"Name": "x", "IPAM": {"Driver": "y"}}, 404, "could not find plugin y in v1 plugin registry"),
        ({"Name": "x", "IPAM": {"Config": 5}}, 400, "invalid JSON: Config in IPAM is not a list"),
        ({"Name": "x", "IPAM": {"Config": [5]}}, 400, "invalid JSON: an item of Config in IPAM is not an object"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": 5}]}}, 400, "invalid JSON: Subnet in Config is not a string"),
        ({"Name": "x", "IPAM": {"Config": [{"Gateway": "10.0.0.1"}]}}, 400, "invalid network config:"),
        ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.0.0.0/8", "IPRange": "y"}]}}, 400, "invalid subnet y"),
        ({"Name": "x", "Labels": {"a": 5}}, 400, "invalid JSON: Labels is not "),
    ],
)
async def test_requests_that_are_refused(body: Any, status: int, message: str) -> None:
    found, answer = await _ask("POST /networks/create", body)
    assert found == status
    assert answer["message"].startswith(message)


async def test_remove_and_prune() -> None:
    networks = _backend()
    assert await _ask("POST /networks/prune", networks=networks) == (200, {"NetworksDeleted": ["front"]})
    assert await _ask('POST /networks/prune?filters={"label":["c"]}') == (200, {"NetworksDeleted": None})
    assert await _ask('POST /networks/prune?filters={"until":["0.000000003"]}') == (200, {"NetworksDeleted": None})
    assert await _ask("DELETE /networks/front", networks=networks) == (204, b"")
    assert (await _ask("DELETE /networks/front", networks=networks))[0] == 404


async def test_connect_and_disconnect() -> None:
    networks = _backend()
    assert await _ask("POST /networks/front/connect", {"container": "box"}, networks) == (200, b"")
    assert await _ask("POST /networks/front/disconnect", {"Container": "box", "force": True}, networks) == (200, b"")
    assert networks.calls == [("front", "box"), ("front", "box", True)]


@pytest.mark.parametrize("version", [(1, 41), (1, 51)])
@pytest.mark.parametrize("driver", ["host", "null"])
def test_a_network_without_subnets_has_an_empty_list_of_them(driver: str, version: tuple[int, int]) -> None:
    nothing: Any = None
    shape = network_shape(NetworkRecord("id", "none", driver, 0), nothing, version, members=False)
    assert shape["IPAM"]["Config"] == []
