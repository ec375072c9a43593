"""A container on the host's network: the ports at which its guest listens are published, and withdrawn again."""

import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.container.lifecycle import Exit, Start, Started
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.engine.networking.host_ports import HostPorts
from appliance.guest import Listener
from appliance.hypervisor import Forward, MachineSpec
from appliance.hypervisor.fake import FakeDriver, FakeHost, VersatileMachine
from tests.appliance.engine.networking.fake_networks import RecordingHost, World, networks_at

Take = Callable[[list[Listener]], Awaitable[None]]


class _Session:
    async def watch_listeners(self, take: Take, container: str) -> None:
        assert container == "c0ffee"
        self.take = take
        await trio.sleep_forever()


class _Run:
    """What HostPorts uses of a Run."""

    network = "c0ffee"

    def __init__(self, machine: VersatileMachine) -> None:
        self.session = _Session()
        self.machine = machine


class _Followed:
    """A running container whose listeners a test sets."""

    def __init__(self, world: World, container: Container, run: _Run, clock: MockClock) -> None:
        self.world = world
        self.container = container
        self.run = run
        self._clock = clock

    async def listens(self, *listeners: tuple[str, int]) -> None:
        await self.run.session.take([Listener(protocol, port) for protocol, port in listeners])
        await self.passes(0.06)

    async def passes(self, seconds: float) -> None:
        await wait_all_tasks_blocked(0.02)
        self._clock.jump(seconds)
        await wait_all_tasks_blocked(0.02)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let time pass until `holds` is true. The database writes in a thread, in no time of the test's clock."""
        for _ in range(500):
            if holds():
                return
            await self.passes(0.06)
        raise AssertionError("it does not become true")

    async def shows(self, *published: tuple[str, int]) -> None:
        await self.until(lambda: self.published == set(published))

    @property
    def published(self) -> set[tuple[str, int]]:
        return {(one.protocol, one.host_port) for one in self.container.record.bindings}

    def end(self) -> None:
        self.container.move(Exit(2, 0))


@pytest.fixture
def ports() -> list[int]:
    """Three ports that are free at all addresses."""
    found: list[int] = []
    while len(found) < 3:
        number = random.randrange(20_000, 32_000)
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET6, kind) as probe:
                    probe.bind(("::", number))
        except OSError:
            continue
        found.append(number)
    return found


@pytest.fixture
def busy() -> Iterator[socket.socket]:
    """A socket of another program that listens."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        yield listener


@asynccontextmanager
async def _followed(
    root: Path, nursery: trio.Nursery, clock: MockClock, network: str = "host", bridged: bool = True
) -> AsyncIterator[_Followed]:
    async with networks_at(root, RecordingHost(bridged=bridged)) as world:
        container = world.container("web", network)
        world.allocator.acquire_all(container)
        nic = container.endpoints[0].nic
        machine = await FakeDriver(FakeHost(nursery), VersatileMachine).create(MachineSpec("m1", 256, 1, nic=nic))
        assert isinstance(machine, VersatileMachine)
        run = _Run(machine)
        container.run = cast(Run, run)
        container.move(Start())
        container.move(Started(1, 100))
        repository = ContainerRepository(world.database, world.events)
        nursery.start_soon(HostPorts(world.allocator.published, repository).watch, container, container.run)
        await wait_all_tasks_blocked()
        yield _Followed(world, container, run, clock)
        world.allocator.release_all(container)


@pytest.fixture
async def followed(tmp_path: Path, nursery: trio.Nursery, mock_clock: MockClock) -> AsyncIterator[_Followed]:
    async with _followed(tmp_path, nursery, mock_clock) as found:
        yield found


async def test_listeners_are_published_and_withdrawn(
    followed: _Followed, ports: list[int], mock_clock: MockClock
) -> None:
    tcp, udp, _ = ports
    await followed.listens(("tcp", tcp), ("udp", udp), ("sctp", 9), ("tcp", 0))
    await followed.shows(("tcp", tcp), ("udp", udp))
    assert {(one.host_port, one.address) for one in followed.world.host.publications} >= {
        (tcp, "10.11.0.2"),
        (udp, "10.11.0.2"),
    }
    await followed.listens(("udp", udp))
    await followed.shows(("udp", udp))
    with socket.create_server(("0.0.0.0", tcp)):
        pass
    await followed.listens(("tcp", tcp))
    await followed.shows(("tcp", tcp))

    def stored() -> bytes:
        return followed.world.database.load("container").get(followed.container.id, b"")

    # Stored: a daemon that is killed now publishes them again.
    await followed.until(lambda: f'"host_port":{tcp}'.encode() in stored())
    await followed.until(lambda: f'"host_port":{udp}'.encode() not in stored())


async def test_a_port_in_use_is_tried_again(
    followed: _Followed, busy: socket.socket, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    port = busy.getsockname()[1]
    await followed.listens(("tcp", port))
    await followed.passes(2.1)
    assert followed.published == set()
    await followed.passes(2.1)
    assert caplog.text.count(f"port {port}/tcp of container") == 1
    busy.close()
    await followed.shows(("tcp", port))


async def test_nothing_is_published_for_a_process_that_has_ended(
    followed: _Followed, ports: list[int], mock_clock: MockClock
) -> None:
    followed.end()
    await followed.listens(("tcp", ports[0]))
    assert followed.published == set()


async def test_a_guest_with_countless_listeners(followed: _Followed, mock_clock: MockClock) -> None:
    first = random.randrange(40_000, 60_000)
    await followed.listens(*(("udp", first + number) for number in range(300)))
    await followed.until(lambda: bool(followed.published))
    assert 200 < len(followed.published) <= 256


async def test_without_bridges_the_hypervisor_gets_the_list(
    tmp_path: Path, nursery: trio.Nursery, ports: list[int], mock_clock: MockClock
) -> None:
    async with _followed(tmp_path, nursery, mock_clock, bridged=False) as followed:
        machine = followed.run.machine

        def forwards() -> tuple[Forward, ...]:
            assert machine.spec.nic is not None
            return machine.spec.nic.forwards

        await followed.listens(("tcp", ports[0]))
        expected = (Forward("tcp", "0.0.0.0", ports[0], "10.11.0.2", ports[0]),)
        await followed.until(lambda: forwards() == expected)
        await followed.listens()
        await followed.until(lambda: forwards() == ())


async def test_a_container_on_another_network_is_not_followed(
    tmp_path: Path, nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    async with _followed(tmp_path, nursery, mock_clock, "bridge") as followed:
        assert not hasattr(followed.run.session, "take")
