"""Where what happens to containers is written down: the database and the events."""

import msgspec

from appliance.container.event import Event
from appliance.container.record import Record
from appliance.engine.events import EventBus
from appliance.engine.record import Container
from appliance.store import Change, Database

_KIND = "container"


class Ledger:
    def __init__(self, database: Database, events: EventBus) -> None:
        self._database = database
        self._events = events

    def queue(self, container: Container) -> Change:
        """Have its record written; whoever may not go on before that waits for it."""
        return self._database.queue(_KIND, container.id, msgspec.json.encode(container.record))

    async def save(self, container: Container) -> None:
        await self.queue(container).wait()

    async def remove(self, container_id: str) -> None:
        await self._database.remove(_KIND, container_id)

    def load(self) -> dict[str, Record]:
        found = self._database.load(_KIND)
        return {key: msgspec.json.decode(value, type=Record) for key, value in found.items()}

    def tell_prune(self, space: int) -> None:
        self._events.publish(Event("container", "prune", "", {"reclaimed": str(space)}))

    def emit(self, container: Container, action: str, **attributes: str) -> None:
        """Tell the world, with Docker's attributes of a container."""
        labels = {key: str(value) for key, value in (container.record.config.get("Labels") or {}).items()}
        shown = {**labels, "image": container.record.image, "name": container.record.name, **attributes}
        self._events.publish(Event("container", action, container.id, shown))
