"""The route /events."""

import time
from typing import Any

import msgspec
import trio

from appliance.api.backend import EventBackend
from appliance.api.filters import Filters, parse_filters
from appliance.api.router import Route, Version
from appliance.api.times import parse_time
from appliance.container.event import Event
from appliance.errors import InvalidParameter
from appliance.http import Reply, Request
from appliance.image.reference import parse_reference

# Each of these filters matches events of every type by the start of the object's id or name.
_OBJECTS = ("daemon", "container", "plugin", "volume", "network", "node", "service", "secret", "config")
# Actions that go on with a colon and a command or a status.
_LONG_ACTIONS = ("health_status", "exec_create", "exec_start")


class EventRoutes:
    """What happens to containers, images, networks and volumes."""

    def __init__(self, events: EventBackend) -> None:
        self._events = events

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {("GET", "/events"): self.events}

    async def events(self, request: Request, reply: Reply) -> None:
        """GET /events: past events since `since`, then live events until `until`."""
        filters = parse_filters(request.text("filters"), "GET /events")
        since, until = parse_time(request.text("since")), parse_time(request.text("until"))
        if until is not None and since is not None and until < since:
            since_text, until_text = request.text("since"), request.text("until")
            raise InvalidParameter(f"`since` time ({since_text}) cannot be after `until` time ({until_text})")
        seconds_left = float("inf") if until is None else (until - time.time_ns()) / 1e9
        scope = request.principal.scope
        with self._events.watch(scope) as live:
            past = [] if since is None else self._events.past(since, scope)
            async with request.while_connected():
                await reply.start("application/json")
                for event in past:
                    if (until is None or event.time_ns <= until) and _matches(event, filters):
                        await reply.write(_encode(event, request.version))
                with trio.move_on_after(max(0.0, seconds_left)):
                    async for event in live:
                        if _matches(event, filters):
                            await reply.write(_encode(event, request.version))


def _matches(event: Event, filters: Filters) -> bool:
    """As moby daemon/events/filter.go."""
    return (
        _matches_action(event, filters)
        and filters.exact("type", event.type)
        and filters.exact("scope", "local")
        and all(
            filters.prefix(key, event.id) or filters.prefix(key, event.attributes.get("name", ""))
            for key in _OBJECTS
            if key in filters
        )
        and ("image" not in filters or _matches_image(event, filters))
        and filters.has_labels("label", event.attributes)
    )


def _matches_action(event: Event, filters: Filters) -> bool:
    if any(value in _LONG_ACTIONS for value in filters.values("event")):
        return filters.prefix("event", event.action)
    return filters.exact("event", event.action)


def _matches_image(event: Event, filters: Filters) -> bool:
    """Whether an event is of an image, or of a container of an image, by id or name, with or without the tag."""
    name = event.attributes.get("name" if event.type == "image" else "image", "")
    return any(filters.exact("image", text) for text in (event.id, name, _without_tag(event.id), _without_tag(name)))


def _without_tag(text: str) -> str:
    try:
        return parse_reference(text).familiar_name
    except InvalidParameter:
        return text


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
