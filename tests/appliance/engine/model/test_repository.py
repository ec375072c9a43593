"""Records of containers in the database, and their events."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.event import Event
from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.container.lifecycle import Created
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.engine.model.repository import ContainerRepository
from appliance.errors import Unavailable
from appliance.store import Database


def make(name: str = "web") -> Container:
    config = ContainerConfig(cmd=["a", "b"], labels={"team": "x", "image": "label"})
    host = HostConfig(memory=1 << 26, restart_policy=RestartPolicy("always", 0))
    return Container(
        ContainerRecord(name * 4, name, 5, "sha256:1", "busybox", config, host), Path("nowhere"), Created()
    )


class Room:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.events = EventBus()
        self.repository = ContainerRepository(database, self.events)

    def published(self) -> list[tuple[str, str, str, dict[str, str]]]:
        return [(event.type, event.action, event.id, event.attributes) for event in self.events.past(0)]


@pytest.fixture
async def room(tmp_path: Path) -> AsyncIterator[Room]:
    async with Database.open(tmp_path / "state.db") as database:
        yield Room(database)


async def test_what_is_saved_is_loaded(room: Room) -> None:
    first, second = make(), make("db")
    await room.repository.save(first)
    await room.repository.save(second)
    assert room.repository.load() == {first.id: first.record, second.id: second.record}


async def test_a_record_is_stored_as_it_was_when_it_was_queued(room: Room) -> None:
    container = make()
    change = room.repository.queue(container)
    container.record.name = "later"
    await change.wait()
    assert room.repository.load()[container.id].name == "web"
    await room.repository.save(container)
    assert room.repository.load()[container.id].name == "later"


async def test_removal(room: Room) -> None:
    container = make()
    await room.repository.save(container)
    await room.repository.remove(container.id)
    assert room.repository.load() == {}
    # Again, as a removal that was cut off.
    await room.repository.remove(container.id)


async def test_a_record_that_cannot_be_written(room: Room) -> None:
    room.database._connection.execute("PRAGMA query_only=ON")
    with pytest.raises(Unavailable, match="cannot write state"):
        await room.repository.save(make())


async def test_other_records_are_not_containers(room: Room) -> None:
    await room.database.put("volume", "data", b"{}")
    assert room.repository.load() == {}


async def test_an_event_has_docker_s_attributes(room: Room) -> None:
    container = make()
    room.repository.emit(container, "die", exitCode="3")
    # The labels are among them; the attributes of Docker's own win.
    attributes = {"team": "x", "image": "busybox", "name": "web", "exitCode": "3"}
    assert room.published() == [("container", "die", container.id, attributes)]
    assert isinstance(room.events.past(0)[0], Event)


async def test_a_prune_is_an_event_of_no_container(room: Room) -> None:
    room.repository.publish_prune(42)
    assert room.published() == [("container", "prune", "", {"reclaimed": "42"})]
