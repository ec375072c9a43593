"""Figures of a container in Docker's shape."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.api.stats import StatsRoutes
from appliance.guest.reports import BlockMetrics, InterfaceMetrics, Metrics
from appliance.hypervisor import Usage
from tests.appliance.api.asking import ask

_METRICS = Metrics(
    cpu_usage_ns=30,
    cpu_user_ns=10,
    cpu_system_ns=20,
    throttled_periods=1,
    throttled_ns=2,
    system_cpu_ns=1000,
    online_cpus=2,
    memory_usage=4096,
    memory_limit=8192,
    memory_stat={"file": 7},
    pids=3,
    pids_limit=0,
    interfaces=[InterfaceMetrics("eth0", 1, 2, 3, 4, 5, 6, 7, 8)],
    blocks=[BlockMetrics(8, 0, 11, 12, 13, 14)],
)


class _Stats:
    """A StatsBackend; each sample has used 10 ns more."""

    def __init__(self, metrics: Metrics | None = _METRICS) -> None:
        self.metrics = metrics

    async def sample(self, ref: str) -> tuple[Metrics, Usage] | None:
        await trio.lowlevel.checkpoint()
        if self.metrics is None:
            return None
        self.metrics = replace(self.metrics, cpu_usage_ns=self.metrics.cpu_usage_ns + 10)
        return self.metrics, Usage(99, 65536)

    async def top(self, ref: str, arguments: str) -> tuple[list[str], list[list[str]]]:
        return ["PID"], [[arguments]]


async def _ask(line: str, stats: _Stats, *, running: bool = True) -> tuple[int, Any]:
    box = SimpleNamespace(id="c1", record=SimpleNamespace(name="box"), running=running, removed=False)
    containers: Any = SimpleNamespace(get=lambda ref: box)
    return await ask(StatsRoutes(containers, stats).routes(), line)


async def test_one_shot() -> None:
    status, shape = await _ask("GET /containers/box/stats?stream=0&one-shot=1", _Stats())
    assert status == 200
    assert shape["name"] == "/box"
    assert shape["cpu_stats"]["cpu_usage"] == {
        "total_usage": 40,
        "usage_in_kernelmode": 20,
        "usage_in_usermode": 10,
    }
    assert shape["precpu_stats"]["cpu_usage"]["total_usage"] == 0
    assert shape["memory_stats"] == {"usage": 4096, "stats": {"file": 7}, "limit": 8192}
    assert shape["pids_stats"] == {"current": 3}
    assert shape["machine"] == {"cpu_usage": 99, "memory_usage": 65536}
    assert shape["networks"]["eth0"]["tx_dropped"] == 8
    assert shape["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "read", "value": 11},
        {"major": 8, "minor": 0, "op": "write", "value": 12},
    ]
    assert shape["blkio_stats"]["io_queue_recursive"] is None


async def test_without_a_stream_there_are_two_samples_one_second_apart(autojump_clock: MockClock) -> None:
    begin = trio.current_time()
    _, shape = await _ask("GET /containers/box/stats?stream=false", _Stats())
    assert trio.current_time() - begin == pytest.approx(1)
    usage = [shape[key]["cpu_usage"]["total_usage"] for key in ("precpu_stats", "cpu_stats")]
    assert usage == [40, 50]


async def test_a_container_that_does_not_run() -> None:
    status, shape = await _ask("GET /containers/box/stats?stream=0", _Stats(None), running=False)
    assert (status, shape["read"], shape["pids_stats"], shape["memory_stats"]) == (200, "0001-01-01T00:00:00Z", {}, {})
    # The lists of cgroup v2 are never null.
    assert shape["blkio_stats"]["io_service_bytes_recursive"] == shape["blkio_stats"]["io_serviced_recursive"] == []


async def test_a_limit_of_processes_is_shown() -> None:
    _, shape = await _ask("GET /containers/box/stats?stream=0&one-shot=1", _Stats(replace(_METRICS, pids_limit=9)))
    assert shape["pids_stats"] == {"current": 3, "limit": 9}


async def test_top() -> None:
    assert await _ask("GET /containers/box/top?ps_args=-ef", _Stats()) == (
        200,
        {"Titles": ["PID"], "Processes": [["-ef"]]},
    )
