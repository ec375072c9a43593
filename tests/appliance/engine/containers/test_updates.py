"""`docker update`: new limits, for containers that run and those that do not, and moby's conflicts."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.errors import Conflict, InvalidParameter
from appliance.hypervisor import ResourceShares
from appliance.hypervisor.fake import VersatileMachine
from protos.tether.v1 import process_pb2
from tests.appliance.engine.harness import Engine, Host, engine

MIB = 1 << 20
NANO = 1_000_000_000


def allow(_: HostConfig) -> None:
    pass


async def update(daemon: Engine, ref: str, wanted: HostConfig, check: Callable[[HostConfig], object] = allow) -> None:
    await daemon.services.updates.update(ref, wanted, check)


def limits_sent(host: Host) -> list[dict[str, object]]:
    """The resources of all updates that reached a guest."""
    updates = [request for request in host.guest.requests if isinstance(request, process_pb2.UpdateRequest)]
    return [msgspec.json.decode(request.resources) for request in updates]


async def test_a_running_container_has_its_limits_at_once(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await update(daemon, container.id, HostConfig(memory=64 * MIB, memory_swap=128 * MIB))
    (sent,) = limits_sent(host)
    assert sent["memory"] == {"limit": 64 * MIB, "swap": 128 * MIB}
    assert container.record.host_config.memory == 64 * MIB
    assert daemon.events(container)[-1] == "update"


async def test_a_container_that_does_not_run_has_them_at_its_next_start(daemon: Engine, host: Host) -> None:
    container = await daemon.create(host=HostConfig(pids_limit=9))
    # More than any machine of the usual size has.
    await update(daemon, container.id, HostConfig(memory=4096 * MIB, memory_swap=-1))
    assert limits_sent(host) == []
    assert container.record.host_config.pids_limit == 9
    await daemon.start(container)
    assert host.vms.vms[container.id].spec.memory_mib > 4096


async def test_the_restart_policy_is_not_a_limit(daemon: Engine, host: Host) -> None:
    container = await daemon.run(host=HostConfig(memory=64 * MIB))
    await update(daemon, container.id, HostConfig(restart_policy=RestartPolicy("always", 0)))
    assert limits_sent(host) == []
    assert container.record.host_config.restart_policy == RestartPolicy("always", 0)
    assert container.record.host_config.memory == 64 * MIB


async def test_an_update_outlives_the_daemon(daemon: Engine) -> None:
    container = await daemon.create()
    await update(daemon, container.id, HostConfig(cpu_shares=77))
    stored = daemon.stored(container)
    assert stored is not None
    assert stored.host_config.cpu_shares == 77


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            HostConfig(cpu_period=100_000),
            HostConfig(nano_cpus=NANO),
            "Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set",
        ),
        (
            HostConfig(cpu_quota=50_000),
            HostConfig(nano_cpus=NANO),
            "Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set",
        ),
        (
            HostConfig(nano_cpus=NANO),
            HostConfig(cpu_period=100_000),
            "Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set",
        ),
        (
            HostConfig(nano_cpus=NANO),
            HostConfig(cpu_quota=50_000),
            "Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set",
        ),
        (
            HostConfig(memory=32 * MIB, memory_swap=64 * MIB),
            HostConfig(memory=128 * MIB),
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time",
        ),
    ],
)
async def test_moby_s_conflicts(daemon: Engine, old: HostConfig, new: HostConfig, text: str) -> None:
    container = await daemon.create(host=old)
    before = msgspec.json.encode(container.record)
    with pytest.raises(Conflict) as caught:
        await update(daemon, container.id, new)
    assert str(caught.value) == f"Cannot update container {container.id}: {text}"
    assert msgspec.json.encode(container.record) == before


async def test_memory_and_swap_together(daemon: Engine) -> None:
    container = await daemon.create(host=HostConfig(memory=32 * MIB, memory_swap=64 * MIB))
    await update(daemon, container.id, HostConfig(memory=128 * MIB, memory_swap=256 * MIB))
    assert container.record.host_config.memory == 128 * MIB


async def test_auto_remove_and_a_restart_policy_exclude_each_other(daemon: Engine) -> None:
    container = await daemon.create(host=HostConfig(auto_remove=True))
    text = "^Restart policy cannot be updated because AutoRemove is enabled for the container$"
    with pytest.raises(Conflict, match=text):
        await update(daemon, container.id, HostConfig(restart_policy=RestartPolicy("always", 0)))
    await update(daemon, container.id, HostConfig(restart_policy=RestartPolicy("no", 0), cpu_shares=5))
    assert container.record.host_config.cpu_shares == 5


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (HostConfig(memory=1 << 40, memory_swap=-1), "its VM has [0-9]+ MiB, too few for that limit"),
        (HostConfig(nano_cpus=1000 * NANO), r"Range of CPUs is from 0.01 to [0-9]+.00, as there are only [0-9]+ CPUs"),
        (HostConfig(cpuset_cpus="0-999"), "Requested CPUs are not available - requested 0-999, available: 0-[0-9]+"),
    ],
    ids=["memory", "cpus", "cpuset"],
)
async def test_a_limit_that_the_machine_has_no_room_for(daemon: Engine, host: Host, new: HostConfig, text: str) -> None:
    container = await daemon.run()
    with pytest.raises(Conflict, match=f"^Cannot update container {container.id}: {text}"):
        await update(daemon, container.id, new)
    assert limits_sent(host) == []
    assert container.record.host_config.memory == 0
    await daemon.stop(container)
    await update(daemon, container.id, new)


async def test_the_check_of_the_result(daemon: Engine) -> None:
    def refuse(config: HostConfig) -> None:
        # The result of the update, not only what is new.
        assert (config.cpu_shares, config.pids_limit) == (5, 9)
        raise InvalidParameter("no")

    container = await daemon.create(host=HostConfig(pids_limit=9))
    with pytest.raises(InvalidParameter, match=f"^Cannot update container {container.id}: no$"):
        await update(daemon, container.id, HostConfig(cpu_shares=5), refuse)
    assert container.record.host_config.cpu_shares == 0


async def test_shares_of_the_machine(host: Host, tmp_path: Path) -> None:
    host.machine = VersatileMachine
    async with engine(host, tmp_path) as daemon:
        container = await daemon.run()
        await update(daemon, container.id, HostConfig(cpu_shares=512, memory_reservation=64 * MIB))
        assert host.vms.vms[container.id].shares == ResourceShares(512, 64)
