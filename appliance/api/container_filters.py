"""The filters of `GET /containers/json`."""

import re
from collections.abc import Callable

from appliance.api.backend import Container, ContainerRegistry, NetworkBackend
from appliance.api.filters import any_of, matches_label_filters, matches_pattern, parse_filters
from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.lifecycle import Exited, status_word
from appliance.errors import InvalidParameter, NotFound
from appliance.http import Request
from appliance.image.store import ImageStore

_FILTERS = frozenset((
    "ancestor", "before", "expose", "exited", "health", "id", "is-task", "label", "label!", "name", "network", "publish",
    "since", "status", "volume",
))  # fmt: skip
_HEALTH = ("none", "starting", "healthy", "unhealthy")
_STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


def parse_container_filters(request: Request) -> dict[str, list[str]]:
    """The query's `filters`, `before` and `since`. InvalidParameter names the filter that is not known."""
    filters = parse_filters(request.text("filters"), _FILTERS)
    for name in ("before", "since"):
        if name in request.query:
            filters.setdefault(name, []).append(request.text(name))
    for status in filters.get("status", ()):
        if status not in _STATUSES:
            raise InvalidParameter(f"invalid filter 'status={status}'")
    return filters


def container_filter(
    filters: dict[str, list[str]], backend: ContainerRegistry, network_backend: NetworkBackend, images: ImageStore
) -> Callable[[Container], bool]:
    """The test that a container passes to be listed. InvalidParameter for a value that its filter does not have."""
    before = [backend.get(ref).record.created for ref in filters.get("before", ())]
    since = [backend.get(ref).record.created for ref in filters.get("since", ())]
    ancestors = {images.get(ref).id for ref in filters.get("ancestor", ()) if _is_image(images, ref)}
    for value in filters.get("health", ()):
        if value not in _HEALTH:
            raise InvalidParameter(f"Unrecognised filter value for health: {value}")
    tasks = filters.get("is-task", [])
    if tasks and (len(tasks) > 1 or tasks[0] not in ("true", "false", "1", "0")):
        raise InvalidParameter(f"Invalid filter 'is-task={tasks}'")
    for key in ("publish", "expose"):
        for value in filters.get(key, ()):
            if not re.fullmatch(r"[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?", value):
                raise InvalidParameter(f"error while looking up for {key} {value}: invalid syntax")
    exposed = _each_port(filters.get("expose", []))
    published = _each_port(filters.get("publish", []))
    networks = [_network_names(network_backend, ref) for ref in filters.get("network", ())]
    for code in filters.get("exited", ()):
        if not code.lstrip("-").isdigit():
            raise InvalidParameter(f"invalid filter 'exited={code}'")

    def keep(c: Container) -> bool:
        record = c.record
        labels = record.config.labels or {}
        attached = {name for one in record.attachments for name in (one.network, one.network_id)}
        return (
            (not filters.get("name") or matches_pattern(filters["name"], record.name, f"/{record.name}"))
            and any_of(filters.get("id", []), record.id.startswith)
            and any_of(filters.get("status", []), lambda status: status == status_word(c.state))
            and any_of(
                filters.get("exited", []),
                lambda code: isinstance(c.state, Exited) and c.state.exit_code == int(code),
            )
            and (not networks or any(names & attached for names in networks))
            and matches_label_filters(filters, labels)
            and (not filters.get("ancestor") or record.image_id in ancestors or record.image in filters["ancestor"])
            and all(record.created < at for at in before)
            and all(record.created > at for at in since)
            and any_of(filters.get("health", []), lambda word: word == (c.health.status if c.health else "none"))
            and any_of(exposed, lambda port: port in _exposed_ports(record.config))
            and any_of(published, lambda port: port in _published_ports(record))
            and any_of(
                filters.get("volume", []),
                lambda wanted: any(wanted in (one.name, one.source, one.destination) for one in record.mounts),
            )
            # No container is a task of a swarm.
            and not (tasks and tasks[0] in ("true", "1"))
        )

    return keep


def _network_names(networks: NetworkBackend, ref: str) -> set[str]:
    """The names by which attachments may refer to a network: its id, or the name or id that the client gave."""
    try:
        return {networks.get(ref).id, ref}
    except (NotFound, InvalidParameter):
        return {ref}


def _is_image(images: ImageStore, ref: str) -> bool:
    try:
        images.get(ref)
    except (NotFound, InvalidParameter):
        return False
    return True


def _exposed_ports(config: ContainerConfig) -> set[str]:
    """Exposed ports, as 80/tcp and as 80."""
    ports = config.exposed_ports or {}
    return {*ports, *(port.partition("/")[0] for port in ports)}


def _published_ports(record: ContainerRecord) -> set[str]:
    """Ports of the host, as 80/tcp and as 80."""
    return {text for one in record.bindings for text in (str(one.host_port), f"{one.host_port}/{one.protocol}")}


def _each_port(wanted: list[str]) -> list[str]:
    """The ports that a filter names; a range names each of its ports."""
    ports = []
    for text in wanted:
        first, _, last = text.partition("/")[0].partition("-")
        protocol = text.partition("/")[2] or "tcp"
        ports += [f"{number}/{protocol}" for number in range(int(first), min(int(last or first), 65535) + 1)]
    return ports
