"""Events: those that are stored, those that happen, filters, and the shape by API version."""

import json
from typing import Any

import pytest
import trio

from appliance.api.events import EventRoutes
from appliance.api.router import Router
from appliance.container.event import Event
from appliance.engine.model.events import EventBus
from tests.appliance.api.asking import ask
from tests.appliance.http.wire import Client, served

_SECOND = 1_000_000_000
_HEAD = b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


def _router(events: EventBus) -> Router:
    router = Router()
    router.add_all(EventRoutes(events).routes())
    return router


def _bus() -> EventBus:
    events = EventBus()
    events.publish(Event("container", "create", "c1", {"name": "web", "image": "busybox", "a": "b"}, 1 * _SECOND))
    events.publish(Event("container", "exec_create: ls", "c1", {"name": "web", "image": "busybox"}, 2 * _SECOND))
    events.publish(Event("network", "create", "n1", {"name": "front"}, 3 * _SECOND))
    events.publish(Event("image", "pull", "i1", {"name": "busybox:latest"}, 4 * _SECOND))
    return events


async def _past(query: str, version: str = "1.51") -> list[Any]:
    """The stored events; `until` is in the past, so that the answer ends."""
    async with served(_router(_bus())) as client:
        line = f"GET /v{version}/events?since=1&until=10&{query} HTTP/1.0\r\n\r\n"
        await client.send(line.encode())
        answer = await client.receive(1 << 20)
    return [json.loads(line) for line in answer.partition(b"\r\n\r\n")[2].splitlines()]


@pytest.mark.parametrize(
    ("filters", "actions"),
    [
        ("{}", ["create", "exec_create: ls", "create", "pull"]),
        ('{"type":["network"]}', ["create"]),
        ('{"type":["container"],"event":["exec_create"]}', ["exec_create: ls"]),
        ('{"event":["exec"]}', []),
        ('{"event":["exec_create:%20ls"]}', ["exec_create: ls"]),
        ('{"event":[]}', ["create", "exec_create: ls", "create", "pull"]),
        ('{"container":["web"]}', ["create", "exec_create: ls"]),
        ('{"container":["we"]}', ["create", "exec_create: ls"]),
        ('{"container":["c1"]}', ["create", "exec_create: ls"]),
        ('{"network":["front"]}', ["create"]),
        ('{"image":["busybox"]}', ["create", "exec_create: ls", "pull"]),
        ('{"image":["busybox:latest"]}', ["pull"]),
        ('{"image":["i1"]}', ["pull"]),
        ('{"image":["busy"]}', []),
        ('{"label":["a=b"]}', ["create"]),
        ('{"label":["a","image=busybox"]}', ["create"]),
        ('{"scope":["swarm"]}', []),
        ('{"scope":["local"]}', ["create", "exec_create: ls", "create", "pull"]),
        ('{"daemon":["x"]}', []),
        # Docker ignores keys that it does not know.
        ('{"id":["none"],"nonsense":["x"]}', ["create", "exec_create: ls", "create", "pull"]),
    ],
)
async def test_filters(filters: str, actions: list[str]) -> None:
    assert [event["Action"] for event in await _past(f"filters={filters}")] == actions


async def test_bounds_in_the_wrong_order() -> None:
    assert await ask(EventRoutes(_bus()).routes(), "GET /events?since=2&until=1") == (
        400,
        {"message": "`since` time (2) cannot be after `until` time (1)"},
    )
    assert await ask(EventRoutes(_bus()).routes(), "GET /events?filters=x") == (400, {"message": "invalid filter"})


async def test_shapes() -> None:
    first, *_, last = await _past("")
    assert first == {
        "status": "create",
        "id": "c1",
        "Type": "container",
        "Action": "create",
        "Actor": {"ID": "c1", "Attributes": {"name": "web", "image": "busybox", "a": "b"}},
        "scope": "local",
        "time": 1,
        "timeNano": _SECOND,
        "from": "busybox",
    }
    assert (last["status"], "from" in last) == ("pull", False)


async def _line(client: Client) -> Any:
    """The next event of a chunked answer."""
    size = b""
    while not size.endswith(b"\r\n"):
        size += await client.receive(1)
    return json.loads(await client.receive(int(size, 16) + 2))


async def test_live_events_follow_the_stored_ones() -> None:
    events = _bus()
    async with served(_router(events)) as client:
        await client.send(b"GET /events?since=4 HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.expect(_HEAD)
        assert (await _line(client))["Action"] == "pull"
        events.publish(Event("volume", "create", "data"))
        assert (await _line(client))["Action"] == "create"
        assert len(events._watchers) == 1
    assert not events._watchers


async def test_a_client_that_does_not_read_is_cut_off() -> None:
    events = EventBus()
    async with served(_router(events)) as client:
        await client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.expect(_HEAD)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(5000):
            events.publish(Event("volume", "create", "x" * 1000))
        assert not events._watchers
