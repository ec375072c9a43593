"""Routes of swarms: one node, its networks, and refusals by name."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from appliance.api.filters import parse_filters
from appliance.api.swarm import SwarmRoutes, _passes
from appliance.errors import NotFound, NotInSwarm
from appliance.hypervisor import Capacity
from appliance.network.network_record import NodeSpec, SwarmRecord
from tests.appliance.api.asking import ask


async def _capacity() -> Capacity:
    return Capacity(7, 5 << 30)


_DAEMON: Any = SimpleNamespace(capacity=_capacity)


class _Swarm:
    """A SwarmBackend that is not in a swarm, or whose manager is any value: refusals do not look at it."""

    record: SwarmRecord | None = None

    def __init__(self, *, inside: bool) -> None:
        self.inside = inside
        self.calls: list[tuple[Any, ...]] = []

    def manager(self) -> Any:
        if not self.inside:
            raise NotInSwarm("This node is not a swarm manager.")

    def check_node(self, ref: str) -> Any:
        self.manager()
        raise NotFound(f"node {ref} not found")

    async def begin(self, *arguments: Any) -> Any:
        self.calls.append(arguments)

    async def leave(self, *, force: bool) -> None:
        self.calls.append(("leave", force))

    async def update(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    async def update_node(self, *arguments: Any) -> None:
        self.calls.append(arguments)


async def _ask(line: str, body: Any = None, *, inside: bool = True) -> tuple[int, Any]:
    return await ask(SwarmRoutes(_Swarm(inside=inside), _DAEMON).routes(), line, body)


@pytest.mark.parametrize(
    "line",
    ["GET /swarm", "GET /nodes", "GET /services", "GET /secrets/x", "POST /configs/create", "GET /swarm/unlockkey"],
)
async def test_outside_of_a_swarm(line: str) -> None:
    assert await _ask(line, inside=False) == (503, {"message": "This node is not a swarm manager."})


@pytest.mark.parametrize("noun", ["services", "tasks", "secrets", "configs"])
async def test_nouns_that_are_always_empty(noun: str) -> None:
    assert await _ask(f"GET /{noun}") == (200, [])
    assert await _ask(f"GET /{noun}/x") == (404, {"message": f"{noun.removesuffix('s')} x not found"})
    assert (await _ask(f"DELETE /{noun}/x"))[0] == 404
    status, body = await _ask(f"POST /{noun}/create", {})
    assert (status, body["message"].startswith(f"{noun} are not supported")) == (501, True)


@pytest.mark.parametrize(
    ("line", "body", "status", "message"),
    [
        ("POST /swarm/join", {}, 501, "joining a swarm is not supported"),
        ("POST /swarm/init", {"DataPathAddr": "x"}, 501, "DataPathAddr is not supported"),
        ("POST /swarm/init", {"AutoLockManagers": True}, 501, "AutoLockManagers is not supported"),
        ("POST /swarm/init", {"availability": "drain"}, 501, "Availability drain is not supported"),
        ("POST /swarm/init", {"DefaultAddrPool": "x"}, 400, "invalid JSON: DefaultAddrPool is a list of strings"),
        ("POST /swarm/init", {"ListenAddr": 5}, 400, "invalid JSON: AdvertiseAddr and ListenAddr are strings"),
        ("POST /swarm/init", {"Spec": {"Name": "x"}}, 400, 'swarm spec must be named "default"'),
        ("POST /swarm/init", {"Spec": 5}, 400, "invalid JSON: Spec is not an object"),
        ("POST /swarm/update?version=1&rotateWorkerToken=1", {}, 501, "rotateWorkerToken is not supported"),
        ("POST /swarm/update?version=x", {}, 400, "invalid swarm version 'x'"),
        ("POST /swarm/unlock", {}, 409, "swarm is not locked"),
        ("GET /nodes/x", None, 404, "node x not found"),
        ("DELETE /nodes/x", None, 404, "node x not found"),
    ],
)
async def test_refusals(line: str, body: Any, status: int, message: str) -> None:
    found, answer = await _ask(line, body)
    assert found == status
    assert answer["message"].startswith(message)


async def test_leave() -> None:
    swarm = _Swarm(inside=True)
    assert await ask(SwarmRoutes(swarm, _DAEMON).routes(), "POST /swarm/leave?force=1") == (200, b"")
    assert swarm.calls == [("leave", True)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('GET /nodes?filters={"nonsense":["x"]}', "invalid filter 'nonsense'"),
        ('GET /nodes?filters={"role":["king"]}', "Invalid role filter: 'king'"),
        ('GET /nodes?filters={"membership":["x"]}', "Invalid membership filter: 'x'"),
        ('GET /tasks?filters={"mode":["x"]}', "invalid filter 'mode'"),
    ],
)
async def test_filters_that_are_refused(line: str, message: str) -> None:
    assert await _ask(line) == (400, {"message": message})


@pytest.mark.parametrize(
    ("filters", "listed"),
    [
        ("{}", True),
        ('{"id":["n1"],"role":["MANAGER",""],"membership":["accepted"],"node.label":["a=b"]}', True),
        ('{"id":["n2"]}', False),
        ('{"name":["nobody-has-this-name"]}', False),
        ('{"role":["worker"]}', False),
        ('{"membership":["pending"]}', False),
        ('{"label":["a"]}', False),
        ('{"node.label":["c"]}', False),
    ],
)
def test_filters_of_nodes(filters: str, listed: bool) -> None:
    record = SwarmRecord("s", "n1xyz", 1, 1, 1, "", "", msgspec.Raw(b"{}"), NodeSpec(labels={"a": "b"}), [], 24)
    assert _passes(record, parse_filters(filters, "GET /nodes")) == listed
