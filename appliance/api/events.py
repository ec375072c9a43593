"""The route /events."""

import time
from typing import Any

import msgspec
import trio

from appliance.api.backend import EventBackend
from appliance.api.filters import matches_labels, parse_filters
from appliance.api.router import Route, Version
from appliance.api.times import parse_time
from appliance.container.event import Event
from appliance.http import Reply, Request

_FILTERS = frozenset((
    "container", "daemon", "event", "image", "label", "network", "plugin", "scope", "type", "volume", "id", "node", "service",
    "secret", "config",
))  # fmt: skip


class EventRoutes:
    """What happens to containers, images, networks and volumes."""

    def __init__(self, events: EventBackend) -> None:
        self._events = events

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {("GET", "/events"): self.events}

    async def events(self, request: Request, reply: Reply) -> None:
        """GET /events: past events since `since`, then live events until `until`."""
        filters = parse_filters(request.text("filters"), _FILTERS)
        since, until = parse_time(request.text("since")), parse_time(request.text("until"))
        seconds_left = float("inf") if until is None else (until - time.time_ns()) / 1e9
        with self._events.watch() as live:
            past = [] if since is None else self._events.past(since)
            async with request.while_connected():
                await reply.start("application/json")
                for event in past:
                    if (until is None or event.time_ns <= until) and _matches(event, filters):
                        await reply.write(_encode(event, request.version))
                with trio.move_on_after(max(0.0, seconds_left)):
                    async for event in live:
                        if _matches(event, filters):
                            await reply.write(_encode(event, request.version))


def _matches(event: Event, filters: dict[str, list[str]]) -> bool:
    name = event.attributes.get("name", "")
    for key, values in filters.items():
        if not values:
            continue
        match key:
            case "type":
                good = event.type in values
            case "event":
                # "exec_create: COMMAND" and "health_status: STATUS" match by their first word.
                good = any(event.action == value or event.action.startswith(f"{value}:") for value in values)
            case "container" | "network" | "volume" | "id":
                good = (key in ("id", event.type)) and any(
                    event.id.startswith(v) or name == v.removeprefix("/") for v in values
                )
            case "image":
                names = (event.attributes.get("image", ""), name, event.id)
                good = any(value in names or f"{value}:latest" in names for value in values)
            case "label":
                good = matches_labels(values, event.attributes)
            case "scope":
                good = "local" in values
            case _:
                good = False
        if not good:
            return False
    return True


def _encode(event: Event, version: Version) -> bytes:
    shape: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": event.id, "Attributes": event.attributes},
        "scope": "local",
        "time": event.time_ns // 1_000_000_000,
        "timeNano": event.time_ns,
    }
    if version < (1, 52) and event.type in ("container", "image"):
        shape = {"status": event.action, "id": event.id, **shape}
        if event.type == "container":
            shape["from"] = event.attributes.get("image", "")
    return msgspec.json.encode(shape) + b"\n"
