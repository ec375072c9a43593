"""Metrics of a container and its guest: Metrics of protos/tether/v1/metrics.proto."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import trio

from protos.tether.v1 import metrics_pb2
from tether.rpc.call import Call
from tether.system.cgroup import Cgroup

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class MetricsService:
    """`cgroup_of` and `pid_of` find the cgroup and the pid of a container's first process by its id; RpcError when it does not run."""

    def __init__(self, cgroup_of: Callable[[str], Cgroup], pid_of: Callable[[str], int]) -> None:
        self._cgroup_of = cgroup_of
        self._pid_of = pid_of

    def get(self, request: metrics_pb2.GetMetricsRequest) -> metrics_pb2.Sample:
        return self._sample(self._cgroup_of(request.id), self._pid_of(request.id))

    async def watch(self, request: metrics_pb2.WatchMetricsRequest, call: Call) -> None:
        cgroup = self._cgroup_of(request.id)
        interval = min(max(request.interval_ms, 100), 60_000) / 1000
        while True:
            await call.send(self._sample(cgroup, self._pid_of(request.id)))
            await trio.sleep(interval)

    @staticmethod
    def _sample(cgroup: Cgroup, pid: int) -> metrics_pb2.Sample:
        cpu = cgroup.flat("cpu.stat")
        total = sum(int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
        return metrics_pb2.Sample(
            time_ns=time.time_ns(),
            cpu_usage_ns=cpu.get("usage_usec", 0) * 1000,
            cpu_user_ns=cpu.get("user_usec", 0) * 1000,
            cpu_system_ns=cpu.get("system_usec", 0) * 1000,
            throttled_periods=cpu.get("nr_throttled", 0),
            throttled_ns=cpu.get("throttled_usec", 0) * 1000,
            system_cpu_ns=total * _TICK_NS,
            online_cpus=os.cpu_count() or 1,
            memory_usage=cgroup.number("memory.current"),
            memory_limit=cgroup.number("memory.max") or _memory_total(),
            memory_stat=cgroup.flat("memory.stat"),
            pids=cgroup.number("pids.current"),
            pids_limit=cgroup.number("pids.max"),
            interfaces=_interfaces(pid),
            blocks=_blocks(cgroup),
        )


def _memory_total() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


def _interfaces(pid: int) -> list[metrics_pb2.InterfaceSample]:
    """The interfaces of the network namespace in which a process is."""
    samples = []
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]
    except OSError:
        return []  # The process ends just now.
    for line in lines:
        name, _, rest = line.partition(":")
        f = [int(value) for value in rest.split()]
        if name.strip() != "lo":
            samples.append(
                metrics_pb2.InterfaceSample(
                    name=name.strip(),
                    rx_bytes=f[0],
                    rx_packets=f[1],
                    rx_errors=f[2],
                    rx_dropped=f[3],
                    tx_bytes=f[8],
                    tx_packets=f[9],
                    tx_errors=f[10],
                    tx_dropped=f[11],
                )
            )
    return samples


def _blocks(cgroup: Cgroup) -> list[metrics_pb2.BlockSample]:
    samples = []
    try:
        lines = (cgroup.path / "io.stat").read_text().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        values = {key: int(value) for key, _, value in (pair.partition("=") for pair in pairs)}
        samples.append(
            metrics_pb2.BlockSample(
                major=int(major),
                minor=int(minor),
                read_bytes=values.get("rbytes", 0),
                write_bytes=values.get("wbytes", 0),
                reads=values.get("rios", 0),
                writes=values.get("wios", 0),
            )
        )
    return samples
