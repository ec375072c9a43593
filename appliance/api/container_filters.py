"""The filters of `GET /containers/json` (moby daemon/list.go)."""

from bisect import bisect_left
from collections.abc import Callable, Iterable

from appliance.api.backend import Container, ContainerRegistry
from appliance.api.filters import Filters, invalid_filter, parse_filters, parse_number
from appliance.api.patterns import matching_names
from appliance.api.shapes import list_ports
from appliance.container.container_record import ContainerRecord
from appliance.container.lifecycle import Exited, status_word
from appliance.errors import InvalidParameter, NotFound
from appliance.http import Request
from appliance.image.store import ImageStore

_HEALTH = ("none", "starting", "healthy", "unhealthy")
_STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


def parse_container_filters(request: Request) -> Filters:
    """The query's `filters`, and `before` and `since` of API 1.22. InvalidParameter names the filter or value that is not known."""
    filters = parse_filters(request.text("filters"), "GET /containers/json")
    for name in ("before", "since"):
        if name in request.query:
            filters.add(name, request.text(name))
    for key, kind, known in (("status", "state", _STATES), ("health", "health", _HEALTH)):
        for value in filters.values(key):
            if value not in known:
                reason = f"invalid value for {kind} ({value}): must be one of {', '.join(known)}"
                raise InvalidParameter(f"{invalid_filter(key, value)}: {reason}")
    filters.boolean("is-task", False)
    return filters


async def container_filter(
    filters: Filters, registry: ContainerRegistry, images: ImageStore
) -> Callable[[Container], bool]:
    """The test that a container passes to be listed. InvalidParameter for a value that its filter does not have."""
    codes = {parse_number("exited", text) for text in filters.values("exited")}
    before = [registry.get(ref).record.created for ref in filters.values("before")]
    since = [registry.get(ref).record.created for ref in filters.values("since")]
    ancestors = _with_descendants(images, filters.values("ancestor"))
    ports = [_PortRange("publish", text) for text in filters.values("publish")]
    ports += [_PortRange("expose", text) for text in filters.values("expose")]
    ids = set(_unique_prefixes(filters.values("id"), [c.id for c in registry.all()]))
    spellings = (text for c in registry.all() for text in (c.record.name, f"/{c.record.name}"))
    names = await matching_names(filters.values("name"), spellings)
    volumes = set(filters.values("volume"))
    networks, network_ids = set(filters.values("network")), tuple(filters.values("network"))
    # No container is a task of a swarm.
    no_container = filters.boolean("is-task", False)

    def exited(c: Container) -> bool:
        return isinstance(c.state, Exited) and not c.restarting and c.state.exit_code in codes

    def mounts_volume(record: ContainerRecord) -> bool:
        return any(one.destination in volumes or (one.name or one.source) in volumes for one in record.mounts)

    def in_network(record: ContainerRecord) -> bool:
        return any(one.network in networks or one.network_id.startswith(network_ids) for one in record.attachments)

    def keep(c: Container) -> bool:
        record = c.record
        return (
            not no_container
            and ("id" not in filters or c.id in ids)
            and (record.name in names or f"/{record.name}" in names)
            and filters.labels(record.config.labels or {})
            and filters.exact("status", status_word(c.state))
            and filters.exact("health", c.health.status if c.health else "none")
            and (not codes or exited(c))
            and all(record.created < at for at in before)
            and all(record.created > at for at in since)
            and ("ancestor" not in filters or record.image_id in ancestors)
            and ("volume" not in filters or mounts_volume(record))
            and ("network" not in filters or in_network(record))
            and (not ports or any(one.holds(row) for row in list_ports(c) for one in ports))
        )

    return keep


def _unique_prefixes(prefixes: list[str], ids: list[str]) -> Iterable[str]:
    """The ids that a prefix names alone."""
    ids = sorted(ids)
    for prefix in prefixes:
        at = bisect_left(ids, prefix)
        found = [one for one in ids[at : at + 2] if prefix and one.startswith(prefix)]
        if len(found) == 1:
            yield found[0]


def _with_descendants(images: ImageStore, names: list[str]) -> set[str]:
    """The ids of images and of all images that were committed from them. Unknown names are ignored."""
    children: dict[str, list[str]] = {}
    for record in images.all() if names else ():
        children.setdefault(record.parent, []).append(record.id)
    found: set[str] = set()
    waiting = []
    for name in names:
        try:
            waiting.append(images.get(name).id)
        except (NotFound, InvalidParameter):
            continue
    while waiting:
        image_id = waiting.pop()
        if image_id not in found:
            found.add(image_id)
            waiting += children.get(image_id, ())
    return found


class _PortRange:
    """A value of `publish` or `expose`: a port or a range, with /tcp if it names no protocol."""

    def __init__(self, key: str, text: str) -> None:
        if ":" in text:
            raise InvalidParameter(f"filter for '{key}' should not contain ':': {text}")
        self._column = "PublicPort" if key == "publish" else "PrivatePort"
        ports, _, protocol = text.partition("/")
        self._protocol = protocol.lower() or "tcp"
        first, dash, last = ports.partition("-")
        failed = f"error while looking up for {key} {text}: "
        self._first = _port(first, f"{failed}invalid start port")
        self._last = _port(last, f"{failed}invalid end port") if dash else self._first
        if self._last < self._first:
            raise InvalidParameter(f"{failed}invalid port range: {text}")

    def holds(self, row: dict[str, object]) -> bool:
        """Whether the range has the port of a row of `docker ps`."""
        port = row.get(self._column, 0)
        return isinstance(port, int) and self._first <= port <= self._last and row["Type"] == self._protocol


def _port(text: str, failed: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 9:
        raise InvalidParameter(f"{failed} '{text}': {'invalid syntax' if text else 'value is empty'}")
    if int(text) > 65535:
        raise InvalidParameter(f"{failed} '{text}': value out of range")
    return int(text)
