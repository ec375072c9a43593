"""Starts and ends of runs: what is stored before, what is announced after, and whom a start must wait for."""

from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Exited
from appliance.errors import Conflict, HypervisorError
from appliance.hypervisor import ResourceShares
from appliance.hypervisor.fake import VersatileMachine
from protos.tether.v1 import process_pb2
from tests.appliance.engine.harness import Engine, Host, engine

MIB = 1 << 20


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    host = Host(nursery)
    host.machine = VersatileMachine
    return host


async def _refuse(*_: object) -> None:
    raise HypervisorError("the host cannot reserve the memory")


async def test_what_a_run_holds_is_stored_before_its_process_runs(daemon: Engine, host: Host) -> None:
    host.guest.hold = trio.Event()
    container = await daemon.create()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.start, container)
        await host.guest.held.wait()
        # A daemon that is killed now must not give its address to another container.
        stored = daemon.stored(container)
        assert stored is not None
        assert stored.state == "created"
        (attachment,) = stored.attachments
        assert attachment.address == str(container.endpoints[0].ipv4.address if container.endpoints[0].ipv4 else "")
        host.guest.hold.set()
    stored = daemon.stored(container)
    assert stored is not None
    assert (stored.state, stored.started > 0) == ("running", True)


async def test_a_start_can_be_cancelled_from_its_first_moment_on(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(Conflict, match="was cancelled"):
                await daemon.start(container)

        changed = container.changed
        nursery.start_soon(start)
        await changed.wait()
        await daemon.remove(container, force=True)
    assert container.removed
    assert host.vms.vms == {}


async def test_the_end_is_stored(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.stop(container)
    await daemon.machine_gone(container)
    stored = daemon.stored(container)
    assert stored is not None
    assert (stored.state, stored.exit_code, stored.stopped_by_user) == ("exited", 0, True)
    assert [attachment.address for attachment in stored.attachments] == [""]


async def test_out_of_memory(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    host.guest.process(container.id).end(process_pb2.ExitStatus(signal=9, oom_killed=True))
    await daemon.ended(container)
    assert isinstance(container.state, Exited)
    assert (container.state.exit_code, container.state.oom_killed) == (137, True)
    # As moby: first the reason, then the end.
    assert daemon.events(container)[2:] == ["oom", "die"]
    await daemon.machine_gone(container)
    await daemon.start(container)
    assert not container.record.oom_killed


async def test_the_end_tells_how_long_the_run_was(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    container.record.started -= 7_300_000_000
    await daemon.stop(container)
    attributes = daemon.attributes(container, "die")
    assert (attributes["exitCode"], attributes["execDuration"]) == ("0", "7")


async def test_a_machine_has_the_container_s_shares(daemon: Engine, host: Host) -> None:
    container = await daemon.run(host=HostConfig(cpu_shares=512, memory_reservation=64 * MIB))
    assert host.vms.vms[container.id].shares == ResourceShares(512, 64)
    other = await daemon.run()
    assert host.vms.vms[other.id].shares == ResourceShares()


async def test_a_start_that_fails_between_machine_and_process_leaves_no_machine(
    daemon: Engine, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    container = await daemon.create(host=HostConfig(memory_reservation=64 * MIB))
    monkeypatch.setattr(VersatileMachine, "set_shares", _refuse)
    with pytest.raises(HypervisorError, match="cannot reserve"):
        await daemon.start(container)
    assert host.vms.vms == {}


async def test_a_disk_is_in_one_machine_at_a_time(daemon: Engine, host: Host) -> None:
    binds = HostConfig(binds=["data:/data"])
    first, second = await daemon.create(name="first", host=binds), await daemon.create(name="second", host=binds)
    # Somebody looked into the volume's disk by way of the first container a moment ago.
    await daemon.services.archive.stat(first.id, "/etc")
    await daemon.start(second)
    assert second.running
    assert list(host.vms.vms) == [second.id]
    with pytest.raises(Conflict, match="data"):
        await daemon.start(first)
    assert (first.running, first.endpoints) == (False, [])
    await daemon.stop(second)
    await daemon.start(first)
    assert first.running


async def test_a_container_with_a_terminal_logs_without_frames(daemon: Engine, host: Host) -> None:
    container = await daemon.create(config=ContainerConfig(tty=True))
    await daemon.start(container)
    host.guest.process(container.id).write("hello\r\n")
    await container.log_news.wait()
    assert (container.folder / "log.data").read_bytes() == b"hello\r\n"


async def test_a_start_that_takes_long_says_so(
    tmp_path: Path, nursery: trio.Nursery, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        host.guest.hold = trio.Event()
        container = await daemon.create()
        async with trio.open_nursery() as starting:
            starting.start_soon(daemon.start, container)
            await host.guest.held.wait()
            mock_clock.jump(61)
            await trio.testing.wait_all_tasks_blocked()
            host.guest.hold.set()
        text = f"the start of container {container.id[:12]} takes 61 s already; its last step: spec made"
        assert [line for line in caplog.messages if "takes" in line] == [text]
        await daemon.remove(container, force=True)
