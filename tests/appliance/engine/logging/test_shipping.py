"""Which containers' logs are sent, and when all of a log is sent."""

from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.container_record import ContainerRecord
from appliance.container.lifecycle import Created, Exited, Running
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.logging.shipping import start_shipping, wait_shipped
from appliance.engine.model import container as model
from appliance.engine.model.container import Container
from appliance.logdrivers import ContainerLog, LogDriver, LogLimits
from appliance.logdrivers.driver import Options
from tests.appliance.logdrivers.records import record_with


class _Shipping:
    """A driver that sends when the test says so, and notes how many calls are under way."""

    name = "test"
    readable = True

    def __init__(self) -> None:
        self.active = self.calls = 0
        self.go = trio.Event()

    def check(self, options: Options) -> list[str]:
        return []

    def limits(self, options: Options) -> LogLimits:
        return LogLimits()

    def attributes(self, record: ContainerRecord) -> dict[str, str]:
        return {}

    async def ship(self, log: ContainerLog) -> None:
        self.calls += 1
        self.active += 1
        try:
            await self.go.wait()
        finally:
            self.active -= 1


def _container(folder: Path, driver: str = "json-file") -> Container:
    return Container(record_with(driver, {}), folder, Created())


@pytest.fixture
def shipping(monkeypatch: pytest.MonkeyPatch) -> _Shipping:
    driver = _Shipping()

    def named(_: str) -> LogDriver:
        return driver

    monkeypatch.setattr(model, "driver_named", named)
    return driver


async def test_a_driver_that_only_keeps_a_file_ships_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    container = _container(tmp_path)
    async with trio.open_nursery() as nursery:
        start_shipping(container, IsolatedTasks(nursery))
        assert not nursery.child_tasks
    assert container.log_shipped.is_set()
    start = trio.current_time()
    await wait_shipped(container, 10)
    assert trio.current_time() == start


async def test_the_log_is_shipped_when_the_driver_has_ended(
    tmp_path: Path, shipping: _Shipping, autojump_clock: trio.testing.MockClock
) -> None:
    container = _container(tmp_path)
    # No entry was ever sent, so the removal does not wait.
    await wait_shipped(container, 10)
    async with trio.open_nursery() as nursery:
        start_shipping(container, IsolatedTasks(nursery))
        await trio.testing.wait_all_tasks_blocked()
        assert not container.log_shipped.is_set()
        start = trio.current_time()
        await wait_shipped(container, 10)
        assert trio.current_time() - start == pytest.approx(10)
        shipping.go.set()
        await wait_shipped(container, 10)
        assert container.log_shipped.is_set()
    assert shipping.calls == 1


async def test_a_quick_restart_does_not_send_twice(
    tmp_path: Path, shipping: _Shipping, autojump_clock: trio.testing.MockClock
) -> None:
    container = _container(tmp_path)
    async with trio.open_nursery() as nursery:
        tasks = IsolatedTasks(nursery)
        start_shipping(container, tasks)
        await trio.testing.wait_all_tasks_blocked()
        # The server is away, so the driver of the first run is busy when the second run begins.
        container.state = Running(1, 1)
        start_shipping(container, tasks)
        await trio.testing.wait_all_tasks_blocked()
        assert shipping.active == 1
        # The driver ends just as the second run begins: it is called again for that run.
        first, shipping.go = shipping.go, trio.Event()
        first.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (shipping.active, shipping.calls) == (1, 2)
        assert not container.log_shipped.is_set()
        container.state = Exited(1, 2, 0, False, "")
        shipping.go.set()
    assert container.log_shipped.is_set()


async def test_a_driver_that_fails_blocks_nothing(
    tmp_path: Path, shipping: _Shipping, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(log: ContainerLog) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(shipping, "ship", fail)
    container = _container(tmp_path)
    async with trio.open_nursery() as nursery:
        start_shipping(container, IsolatedTasks(nursery))
        await wait_shipped(container, 10)
    assert container.log_shipped.is_set()
    assert "unforeseen" in caplog.text
