"""Metrics of a container, from a directory in place of the kernel's cgroup."""

import os
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from protos.tether.v1 import metrics_pb2
from tether.agent.stats import MetricsService
from tether.system import cgroup
from tether.system.cgroup import Cgroup


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroup:
    monkeypatch.setattr(cgroup, "ROOT", tmp_path)
    made = Cgroup("one")
    made.create()
    return made


def test_a_sample(group: Cgroup) -> None:
    group.write(
        {
            "cpu.stat": "usage_usec 9\nuser_usec 4\nsystem_usec 5\nnr_throttled 2\nthrottled_usec 7\n",
            "memory.current": "4096\n",
            "memory.max": "8192\n",
            "memory.stat": "anon 11\nfile 12\n",
            "pids.current": "3\n",
            "pids.max": "64\n",
            "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n8:16 rbytes=5\n",
        }
    )
    sample = MetricsService(lambda _: group, lambda _: os.getpid()).get(metrics_pb2.GetMetricsRequest(id="one"))
    assert (sample.cpu_usage_ns, sample.cpu_user_ns, sample.cpu_system_ns) == (9000, 4000, 5000)
    assert (sample.throttled_periods, sample.throttled_ns) == (2, 7000)
    assert (sample.memory_usage, sample.memory_limit, dict(sample.memory_stat)) == (
        4096,
        8192,
        {"anon": 11, "file": 12},
    )
    assert (sample.pids, sample.pids_limit) == (3, 64)
    assert list(sample.blocks) == [
        metrics_pb2.BlockSample(major=8, minor=0, read_bytes=1, write_bytes=2, reads=3, writes=4),
        metrics_pb2.BlockSample(major=8, minor=16, read_bytes=5),
    ]
    assert sample.system_cpu_ns > 0
    assert "lo" not in {interface.name for interface in sample.interfaces}


def test_without_limits_and_controllers(group: Cgroup) -> None:
    group.write({"memory.max": "max\n"})
    sample = MetricsService(lambda _: group, lambda _: os.getpid()).get(metrics_pb2.GetMetricsRequest(id="one"))
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:"))
    assert sample.memory_limit == int(total.split()[1]) * 1024
    assert (sample.pids_limit, sample.cpu_usage_ns, list(sample.blocks)) == (0, 0, [])


def test_the_interfaces_are_those_of_the_process(group: Cgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    service = MetricsService(lambda _: group, lambda _: 1 << 30)
    # A process that ends just now.
    assert list(service.get(metrics_pb2.GetMetricsRequest(id="one")).interfaces) == []


class FakeCall:
    def __init__(self) -> None:
        self.times: list[float] = []

    async def send(self, _: metrics_pb2.Sample) -> None:
        self.times.append(trio.current_time())


@pytest.mark.parametrize(("asked", "interval"), [(0, 0.1), (250, 0.25), (1 << 31, 60.0)])
async def test_samples_come_at_an_interval_within_bounds(
    autojump_clock: MockClock, group: Cgroup, asked: int, interval: float
) -> None:
    call = FakeCall()
    request = metrics_pb2.WatchMetricsRequest(id="one", interval_ms=asked)
    with trio.move_on_after(interval * 2.5):
        await MetricsService(lambda _: group, lambda _: os.getpid()).watch(request, call)  # type: ignore[arg-type]
    assert [time - call.times[0] for time in call.times] == pytest.approx([0, interval, 2 * interval])
