"""Health checks without VMs. The clock jumps over intervals and timeouts; wall-clock time goes on as usual."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.config import ContainerConfig, HealthConfig
from appliance.container.health import Health
from appliance.engine.model.container import Container
from protos.tether.v1 import process_pb2
from tests.appliance.engine.guest import Process
from tests.appliance.engine.harness import Engine, Host, engine

Clock = trio.testing.MockClock
SECOND = 1_000_000_000
INTERVAL = 10


class Check:
    """The program of the check: its exit codes in turn, then the last one for ever. None: it does not end."""

    def __init__(self) -> None:
        self.codes: list[int | None] = [0]
        self.runs = 0
        self.began = trio.Event()

    async def __call__(self, process: Process) -> int:
        code = self.codes[min(self.runs, len(self.codes) - 1)]
        self.runs += 1
        self.began.set()
        if code is None:
            await trio.sleep_forever()
        process.write(f"run {self.runs}\n")
        return code or 0


@pytest.fixture
def check() -> Check:
    return Check()


@pytest.fixture
async def host(nursery: trio.Nursery, mock_clock: Clock, check: Check) -> Host:
    mock_clock.rate = 1
    return Host(nursery, check=check)


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    async with engine(host, tmp_path) as running:
        yield running


async def run(daemon: Engine, **settings: int) -> Container:
    """A running container with a check every 10 seconds. Further settings are in seconds, except for `retries`."""
    times = {name: value if name == "retries" else value * SECOND for name, value in settings.items()}
    health = HealthConfig(test=["CMD", "check", "it"], interval=INTERVAL * SECOND, **times)
    return await daemon.start(await daemon.create(config=ContainerConfig(healthcheck=health)))


def health_of(container: Container) -> Health:
    assert container.health is not None
    return container.health


async def probed(daemon: Engine, container: Container, clock: Clock, seconds: float = INTERVAL) -> Health:
    """Let this much time go by, and wait until the probe that is due then has its result."""
    before = daemon.events(container).count("exec_die")
    await trio.testing.wait_all_tasks_blocked(0.02)
    clock.jump(seconds)
    await daemon.emitted(container, "exec_die", before + 1)
    return health_of(container)


async def test_a_container_without_a_check_has_no_health(daemon: Engine) -> None:
    container = await daemon.run()
    assert container.health is None


async def test_from_starting_to_healthy(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    container = await run(daemon)
    assert (health_of(container).status, health_of(container).log) == ("starting", [])
    health = await probed(daemon, container, mock_clock)
    assert (health.status, health.streak) == ("healthy", 0)
    (probe,) = health.log
    assert (probe.exit_code, probe.output) == (0, "run 1\n")
    assert probe.start <= probe.end
    actions = ["exec_create: check it", "exec_start: check it", "exec_die", "health_status: healthy"]
    assert daemon.events(container)[2:] == actions
    # A further success changes nothing, so there is no event.
    await probed(daemon, container, mock_clock)
    assert daemon.events(container)[2:] == actions + actions[:3]


async def test_no_check_before_its_interval(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    container = await run(daemon)
    await trio.testing.wait_all_tasks_blocked(0.02)
    mock_clock.jump(INTERVAL - 2)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert check.runs == 0
    await probed(daemon, container, mock_clock, 2)
    assert check.runs == 1


async def test_unhealthy_after_its_retries(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    check.codes = [0, 1, 1, 2, 0]
    container = await run(daemon, retries=3)
    seen = []
    for _ in range(5):
        health = await probed(daemon, container, mock_clock)
        seen.append((health.status, health.streak))
    assert seen == [("healthy", 0), ("healthy", 1), ("healthy", 2), ("unhealthy", 3), ("healthy", 0)]
    changes = [action for action in daemon.events(container) if action.startswith("health_status")]
    assert changes == ["health_status: healthy", "health_status: unhealthy", "health_status: healthy"]
    # An unhealthy container is not stopped.
    assert container.running


async def test_the_last_five_results_are_kept(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    container = await run(daemon)
    for _ in range(7):
        health = await probed(daemon, container, mock_clock)
    assert [probe.output for probe in health.log] == [f"run {number}\n" for number in range(3, 8)]


async def test_failures_in_the_start_period_do_not_count(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    check.codes = [1, 1, 0, 1]
    container = await run(daemon, retries=1, start_period=3600, start_interval=2)
    for _ in range(2):
        # In the start period, the start interval applies.
        health = await probed(daemon, container, mock_clock, 2)
        assert (health.status, health.streak) == ("starting", 0)
    health = await probed(daemon, container, mock_clock, 2)
    assert health.status == "healthy"
    # The first success ends it.
    health = await probed(daemon, container, mock_clock)
    assert health.status == "unhealthy"


async def test_a_check_that_takes_too_long(daemon: Engine, host: Host, check: Check, mock_clock: Clock) -> None:
    check.codes = [None]
    container = await run(daemon, timeout=5, retries=1)
    await trio.testing.wait_all_tasks_blocked(0.02)
    mock_clock.jump(INTERVAL)
    await check.began.wait()
    health = await probed(daemon, container, mock_clock, 5)
    (probe,) = health.log
    assert (probe.exit_code, probe.output) == (-1, "Health check exceeded timeout (5s)")
    assert health.status == "unhealthy"
    # The guest has killed the process and forgotten it.
    (vm,) = host.guest.vms.values()
    assert list(vm.processes) == [container.id]


async def test_long_output_is_cut(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    async def talk(process: Process) -> int:
        process.write("a" * 3000)
        process.write("b" * 3000)
        return 0

    host.guest.programs["check"] = talk
    container = await run(daemon)
    health = await probed(daemon, container, mock_clock)
    assert health.log[0].output == "a" * 3000 + "b" * 1096


async def test_a_check_that_does_not_exist(daemon: Engine, host: Host, mock_clock: Clock) -> None:
    host.guest.refusals["check"] = process_pb2.StartFailure(
        kind=process_pb2.StartFailure.NOT_FOUND, subject="check", searched_path=True
    )
    container = await run(daemon, retries=1)
    health = await probed(daemon, container, mock_clock)
    assert health.log[0].output == (
        "OCI runtime exec failed: exec failed: unable to start container process: "
        'exec: "check": executable file not found in $PATH: unknown'
    )
    assert (health.log[0].exit_code, health.status) == (-1, "unhealthy")


async def test_a_paused_container_is_not_probed(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    container = await run(daemon)
    await daemon.services.signals.pause(container.id)
    await trio.testing.wait_all_tasks_blocked(0.02)
    mock_clock.jump(INTERVAL * 3)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert check.runs == 0
    await daemon.services.signals.unpause(container.id)
    await daemon.emitted(container, "exec_die")
    assert health_of(container).status == "healthy"


async def test_the_end_of_the_container_ends_its_probes(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    check.codes = [0, None]
    container = await run(daemon, timeout=60)
    await probed(daemon, container, mock_clock)
    check.began = trio.Event()
    await trio.testing.wait_all_tasks_blocked(0.02)
    mock_clock.jump(INTERVAL)
    await check.began.wait()
    # In the middle of a probe.
    await daemon.stop(container)
    await daemon.machine_gone(container)
    assert len(health_of(container).log) == 1
    mock_clock.jump(INTERVAL * 10)
    await trio.testing.wait_all_tasks_blocked(0.02)
    assert check.runs == 2
    assert "health_status: unhealthy" not in daemon.events(container)


async def test_a_new_run_begins_with_starting(daemon: Engine, check: Check, mock_clock: Clock) -> None:
    container = await run(daemon)
    await probed(daemon, container, mock_clock)
    await daemon.stop(container)
    await daemon.start(container)
    assert (health_of(container).status, health_of(container).log) == ("starting", [])
