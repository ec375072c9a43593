"""Folders and disks of containers, and how much room they take."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created, Exited
from appliance.engine.containers.storage import ContainerStorage
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.quota import Quota
from appliance.errors import HypervisorError, NotFound, Unavailable
from appliance.hypervisor import SCRATCH
from appliance.hypervisor.fake_disks import FakeDisks
from protos.tether.v1 import filesystem_pb2
from tests.appliance.engine.harness import Engine, Host, engine

LIMIT = 3 * SCRATCH.size


class BrokenDisks(FakeDisks):
    """Disks that cannot be removed while `broken`."""

    broken = False

    async def remove(self, path: Path) -> None:
        if self.broken:
            raise HypervisorError("the datastore is read-only")
        await super().remove(path)


class Room:
    def __init__(self, root: Path, nursery: trio.Nursery) -> None:
        self.disks = BrokenDisks()
        self.registry = ContainerRegistry()
        quota = Quota(LIMIT)
        self.storage = ContainerStorage(root / "containers", self.disks, quota, self.registry, nursery)
        quota.count(self.storage.total_used)

    async def container(self, number: int) -> Container:
        """A container with its folder and disk."""
        key = f"{number:x}" * 64
        record = ContainerRecord(key, f"c{number}", 0, "sha256:0", "empty", ContainerConfig(), HostConfig())
        container = Container(record, self.storage.folder(key), Created())
        await self.storage.create(container)
        self.registry.add(container)
        return container


@pytest.fixture
async def room(tmp_path: Path, nursery: trio.Nursery) -> Room:
    return Room(tmp_path, nursery)


async def test_a_container_has_a_folder_and_a_disk(room: Room, tmp_path: Path) -> None:
    container = await room.container(1)
    assert container.folder == tmp_path / "containers" / container.id
    # Only the daemon lists it, but the way into it is free for the processes of its VM.
    assert container.folder.stat().st_mode & 0o777 == 0o711
    assert room.disks.sizes == {container.folder / "upper.ext4": SCRATCH.size}
    assert list(room.storage.folders()) == [container.folder]
    assert room.storage.disks() == [container.upper]


async def test_a_folder_that_is_there_already(room: Room) -> None:
    container = await room.container(1)
    with pytest.raises(FileExistsError):
        await room.storage.create(container)


async def test_use(room: Room) -> None:
    first, _ = await room.container(1), await room.container(2)
    assert await room.storage.used("c1") == SCRATCH.size
    room.disks.sizes[first.upper] = 100
    assert await room.storage.used("c1") == 100
    assert await room.storage.total_used() == SCRATCH.size + 100
    with pytest.raises(NotFound):
        await room.storage.used("c3")


async def test_use_of_a_container_whose_machine_is_going(room: Room, autojump_clock: trio.testing.MockClock) -> None:
    container = await room.container(1)
    run: Any = SimpleNamespace(gone=trio.Event())
    container.run = run
    # A machine that runs or starts is not waited for.
    before = trio.current_time()
    await room.storage.used("c1")
    assert trio.current_time() == before
    container.state = Exited(1, 2, 0)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def unmount() -> None:
            await trio.sleep(0.2)
            room.disks.sizes[container.upper] = 5 << 20
            run.gone.set()

        assert await room.storage.used("c1") == 5 << 20
    run.gone = trio.Event()
    await room.storage.used("c1")
    assert trio.current_time() - before < 10


async def test_the_quota(room: Room) -> None:
    for number in range(1, 4):
        await room.storage.check_quota()
        await room.container(number)
    with pytest.raises(Unavailable, match=r"^storage quota exceeded: "):
        await room.storage.check_quota()


async def test_discard(room: Room) -> None:
    container = await room.container(1)
    (container.folder / "deep" / "er").mkdir(parents=True)
    await room.storage.discard(container)
    assert room.disks.sizes == {}
    assert list(room.storage.folders()) == []
    # Again, as after a creation that got half-way.
    await room.storage.discard(container)


async def test_a_disk_that_stays(room: Room, caplog: pytest.LogCaptureFixture) -> None:
    container = await room.container(1)
    room.disks.broken = True
    await room.storage.discard(container)
    assert list(room.storage.folders()) == []
    assert room.disks.sizes
    assert "stays until the next start: the datastore is read-only" in caplog.text


async def test_discard_later(room: Room) -> None:
    container = await room.container(1)
    room.storage.discard_later(container)
    assert container.folder.exists()
    while container.folder.exists():
        await trio.testing.wait_all_tasks_blocked(0.002)
    assert room.disks.sizes == {}


async def test_guests_write_to_their_disks_before_a_count(daemon: Engine, host: Host) -> None:
    """A guest of version 0.1 answers UNIMPLEMENTED: the count is of what is on the disk."""
    running, stopped = await daemon.run(), await daemon.create()
    await daemon.services.storage.sync([running.id, stopped.id])
    assert host.guest.requests == [filesystem_pb2.SyncRequest()]
    host.guest.disk.broken = "unknown method"
    await daemon.services.storage.sync([running.id])
    assert len(host.guest.requests) == 2


async def test_a_guest_that_does_not_write_delays_a_count_for_seconds_only(
    host: Host, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    # The guest answers by way of a thread, which the clock does not see: it must not jump before the guests are asked to write.
    autojump_clock.autojump_threshold = math.inf
    async with engine(host, tmp_path) as daemon:
        containers = [await daemon.run() for _ in range(3)]
        host.guest.disk.hold = trio.Event()
        autojump_clock.autojump_threshold = 0.05
        before = trio.current_time()
        await daemon.services.storage.sync(container.id for container in containers)
        # All guests together.
        assert 0 < trio.current_time() - before < 10
