"""`docker top` and the samples of `docker stats`."""

import pytest

from appliance.errors import Conflict, InvalidParameter, NotFound
from protos.tether.v1 import metrics_pb2, process_pb2
from tests.appliance.engine.harness import Engine, Host


async def test_top_shows_the_container_s_processes_only(daemon: Engine, host: Host) -> None:
    container = await daemon.run("sleeper", "a", name="web")
    titles, rows = await daemon.services.stats.top("web", "")
    assert titles == ["PID", "CMD"]
    assert rows == [[str(host.guest.process(container.id).pid), "sleeper a"]]
    assert host.guest.requests == [process_pb2.TopRequest(id=container.id, arguments=["-ef"])]
    assert daemon.events(container)[-1] == "top"


async def test_arguments_of_top(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await daemon.services.stats.top(container.id, "-o pid,cmd -a")
    assert host.guest.requests == [process_pb2.TopRequest(id=container.id, arguments=["-o", "pid,cmd", "-a"])]


async def test_arguments_that_ps_refuses(daemon: Engine) -> None:
    container = await daemon.run()
    with pytest.raises(InvalidParameter, match=r"^ps: error: unknown gnu long option$"):
        await daemon.services.stats.top(container.id, "--nonsense")
    with pytest.raises(InvalidParameter, match='specifying "x=PID" is not allowed'):
        await daemon.services.stats.top(container.id, "-o x=PID")
    assert "top" not in daemon.events(container)


async def test_top_of_a_container_that_does_not_run(daemon: Engine) -> None:
    container = await daemon.create(name="web")
    with pytest.raises(Conflict, match=f"^container {container.id} is not running$"):
        await daemon.services.stats.top("web", "")
    with pytest.raises(NotFound, match=r"^No such container: other$"):
        await daemon.services.stats.top("other", "")


async def test_a_sample_has_both_sides(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    found = await daemon.services.stats.sample(container.id)
    assert found is not None
    metrics, usage = found
    assert (metrics.cpu_usage_ns, metrics.pids, metrics.memory_usage) == (1_000_000_000, 1, 1 << 20)
    assert usage.memory == host.vms.vms[container.id].spec.memory_mib << 20
    assert host.guest.requests == [metrics_pb2.GetMetricsRequest(id=container.id)]


async def test_there_is_no_sample_of_a_container_that_does_not_run(daemon: Engine, host: Host) -> None:
    container = await daemon.create()
    assert await daemon.services.stats.sample(container.id) is None
    await daemon.start(container)
    await daemon.stop(container)
    assert await daemon.services.stats.sample(container.id) is None
    assert host.guest.requests == []


async def test_a_container_that_ends_before_its_sample(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    # The guest knows of the end before the engine does.
    (vm,) = host.guest.vms.values()
    processes, vm.processes = vm.processes, {}
    assert await daemon.services.stats.sample(container.id) is None
    vm.processes = processes
