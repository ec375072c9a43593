"""Restart policies and auto-remove without VMs. The clock jumps over back-off pauses."""

from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.container.lifecycle import Exited
from appliance.hypervisor.fake import FakeMachine
from tests.appliance.engine.guest import Process, echo
from tests.appliance.engine.harness import Host, engine


async def fail(_: Process) -> int:
    return 4


def policy(name: str, most: int = 0) -> HostConfig:
    return HostConfig(restart_policy=RestartPolicy(name, most))


async def test_on_failure_gives_up_after_its_retries(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, fail=fail)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("fail", host=policy("on-failure", 2))
        await daemon.ended(container, 3)
        assert isinstance(container.state, Exited)
        assert not container.restarting
        assert container.record.restarts == 2
        assert daemon.events(container) == ["create", *["start", "die"] * 3]


async def test_on_failure_leaves_a_success_alone(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, echo=echo)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("echo", "x", host=policy("on-failure"))
        await daemon.ended(container)
        assert not container.restarting


class _SlowMachine(FakeMachine):
    """A machine whose end begins at `ending` and takes until `gone`."""

    ending: trio.Event
    gone: trio.Event

    async def destroy(self) -> None:
        self.ending.set()
        await self.gone.wait()
        await super().destroy()


async def test_a_user_ends_a_restart_while_the_last_machine_ends(tmp_path: Path, nursery: trio.Nursery) -> None:
    _SlowMachine.ending, _SlowMachine.gone = trio.Event(), trio.Event()
    host = Host(nursery, fail=fail)
    host.machine = _SlowMachine
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("fail", host=policy("always"))
        await _SlowMachine.ending.wait()
        # The restart has the lock: its pause is over, and it waits for the machine.
        with trio.fail_after(10):
            while not container.lock.locked():
                await trio.testing.wait_all_tasks_blocked(0.01)
        await daemon.stop(container)
        _SlowMachine.gone.set()
        async with container.lock:
            assert (container.running, container.restarting) == (False, False)
        assert isinstance(container.state, Exited)
        assert len(host.guest.launched) == 1


async def test_pauses_between_restarts_grow(
    tmp_path: Path, nursery: trio.Nursery, mock_clock: trio.testing.MockClock
) -> None:
    mock_clock.rate = 1
    host = Host(nursery, fail=fail)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("fail", host=policy("always"))
        for exits in range(1, 9):
            await daemon.ended(container, exits)
            if exits < 8:
                # The restart waits by now.
                await trio.testing.wait_all_tasks_blocked(0.02)
                mock_clock.jump(0.1 * 2 ** (exits - 1))
        # The eighth pause takes 12.8 s.
        assert container.restarting
        await trio.sleep(0.3)
        assert container.restarting
        assert container.short_runs == 8
        mock_clock.jump(12.8)
        await daemon.until(container, lambda: not container.restarting)
        assert container.record.restarts == 8


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_user_ends_a_restart_that_is_due(
    tmp_path: Path, nursery: trio.Nursery, mock_clock: trio.testing.MockClock, how: str
) -> None:
    host = Host(nursery, fail=fail)
    mock_clock.rate = 1
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("fail", host=policy("always"))
        await daemon.ended(container, 4)
        assert container.restarting
        if how == "stop":
            await daemon.stop(container)
        else:
            await daemon.services.signals.kill(container.id, "KILL")
        assert not container.restarting
        assert container.record.stopped_by_user
        exits = container.exits
        mock_clock.jump(120)
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert container.exits == exits
        assert not container.running


async def test_a_stopped_container_stays_down(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with engine(Host(nursery), tmp_path) as daemon:
        container = await daemon.run(host=policy("always"))
        await daemon.stop(container)
        assert not container.restarting
        assert isinstance(container.state, Exited)


async def test_auto_remove_removes_after_the_end(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery, echo=echo)
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run("echo", "x", host=HostConfig(auto_remove=True))
        await daemon.until(container, lambda: container.removed)
        assert daemon.events(container)[-2:] == ["die", "destroy"]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert container.upper not in host.disks.sizes
        assert daemon.registry.all() == []


async def test_auto_remove_removes_after_a_failed_start(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    host.vms.faults.start = "no memory"
    async with engine(host, tmp_path) as daemon:
        container = await daemon.create(host=HostConfig(auto_remove=True))
        with pytest.raises(Exception, match="no memory"):
            await daemon.start(container)
        await daemon.until(container, lambda: container.removed)
