"""Stores the records of containers in the database, and publishes their events."""

import msgspec

from appliance.container.container_record import ContainerRecord
from appliance.container.event import Event
from appliance.container.go_json import decode_stored
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.store import Change, Database

_KIND = "container"


class ContainerRepository:
    def __init__(self, database: Database, events: EventBus) -> None:
        self._database = database
        self._events = events

    def queue(self, container: Container) -> Change:
        """Queue the record for the database; wait on the result until the record is on disk."""
        return self._database.queue(_KIND, container.id, msgspec.json.encode(container.record))

    async def save(self, container: Container) -> None:
        await self.queue(container).wait()

    async def remove(self, container_id: str) -> None:
        await self._database.remove(_KIND, container_id)

    def load(self) -> dict[str, ContainerRecord]:
        found = self._database.load(_KIND)
        return {key: decode_stored(value, ContainerRecord) for key, value in found.items()}

    def publish_prune(self, space: int) -> None:
        self._events.publish(Event("container", "prune", "", {"reclaimed": str(space)}))

    def emit(self, container: Container, action: str, **attributes: str) -> None:
        """Publish an event with Docker's attributes of a container, unless the container is the daemon's own."""
        if container.record.role:
            return
        labels = container.record.config.labels or {}
        shown = {**labels, "image": container.record.image, "name": container.record.name, **attributes}
        self._events.publish(Event("container", action, container.id, shown, owner=container.record.owner))
