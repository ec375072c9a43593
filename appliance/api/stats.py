"""Routes for the processes and the resource usage of a container: top, stats."""

import time
from typing import Any

import msgspec
import trio

from appliance.api.backend import Container, ContainerRegistry, StatsBackend
from appliance.api.router import Route
from appliance.container.times import ZERO, rfc3339
from appliance.guest import Metrics
from appliance.http import Reply, Request
from appliance.hypervisor import Usage

_INTERVAL = 1.0
_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}  # fmt: skip


class StatsRoutes:
    """Processes and resource usage."""

    def __init__(self, containers: ContainerRegistry, stats: StatsBackend) -> None:
        self._containers = containers
        self._stats = stats

    def routes(self) -> dict[tuple[str, str], Route]:
        """See Router.add_all."""
        return {
            ("GET", "/containers/{name}/top"): self.top,
            ("GET", "/containers/{name}/stats"): self.stats,
        }

    async def top(self, request: Request, reply: Reply) -> None:
        """GET /containers/{name}/top."""
        titles, rows = await self._stats.top(request.path["name"], request.text("ps_args"))
        await reply.json(200, {"Titles": titles, "Processes": rows})

    async def stats(self, request: Request, reply: Reply) -> None:
        """GET /containers/{name}/stats: one sample, or one each second."""
        container = self._containers.get(request.path["name"])
        stream = request.flag("stream", True)
        one_shot = request.flag("one-shot")
        async with request.while_connected():
            if not stream:
                before = None
                if not one_shot and container.running:
                    # CPU usage needs two samples, one second apart.
                    before = await self._sample(container)
                    await trio.sleep(_INTERVAL)
                shape = _shape(container, await self._sample(container), before)
                await reply.json(200, shape)
                return
            await reply.start("application/json")
            before = None
            next_at = trio.current_time()
            while not container.removed:
                now = await self._sample(container)
                await reply.write(msgspec.json.encode(_shape(container, now, before)) + b"\n")
                before = now
                next_at += _INTERVAL
                await trio.sleep_until(next_at)

    async def _sample(self, container: Container) -> "_Sample | None":
        found = await self._stats.sample(container.id)
        return None if found is None else _Sample(time.time_ns(), *found)


class _Sample(msgspec.Struct):
    """`at` is in unix ns."""

    at: int
    guest: Metrics
    machine: Usage


def _shape(container: Container, now: _Sample | None, before: _Sample | None) -> dict[str, Any]:
    """moby's StatsJSON. The member `machine` is ours: the resources of the host that the whole VM uses."""
    shape: dict[str, Any] = {
        "read": ZERO,
        "preread": ZERO,
        "pids_stats": {},
        "blkio_stats": _blkio(None),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": _NO_CPU,
        "precpu_stats": _NO_CPU,
        "memory_stats": {},
        "name": f"/{container.record.name}",
        "id": container.id,
    }
    if now is None:
        return shape
    guest = now.guest
    shape |= {
        "read": rfc3339(now.at),
        "pids_stats": {"current": guest.pids},
        "blkio_stats": _blkio(guest),
        "cpu_stats": _cpu(guest),
        "memory_stats": {"usage": guest.memory_usage, "stats": dict(guest.memory_stat), "limit": guest.memory_limit},
        "machine": {"cpu_usage": now.machine.cpu_ns, "memory_usage": now.machine.memory},
    }
    if guest.pids_limit:
        shape["pids_stats"]["limit"] = guest.pids_limit
    if before is not None:
        shape |= {"preread": rfc3339(before.at), "precpu_stats": _cpu(before.guest)}
    if guest.interfaces:
        shape["networks"] = {
            one.name: {
                "rx_bytes": one.rx_bytes,
                "rx_packets": one.rx_packets,
                "rx_errors": one.rx_errors,
                "rx_dropped": one.rx_dropped,
                "tx_bytes": one.tx_bytes,
                "tx_packets": one.tx_packets,
                "tx_errors": one.tx_errors,
                "tx_dropped": one.tx_dropped,
            }
            for one in guest.interfaces
        }
    return shape


def _cpu(guest: Metrics) -> dict[str, Any]:
    return {
        "cpu_usage": {
            "total_usage": guest.cpu_usage_ns,
            "usage_in_kernelmode": guest.cpu_system_ns,
            "usage_in_usermode": guest.cpu_user_ns,
        },
        "system_cpu_usage": guest.system_cpu_ns,
        "online_cpus": guest.online_cpus,
        "throttling_data": {
            "periods": 0,
            "throttled_periods": guest.throttled_periods,
            "throttled_time": guest.throttled_ns,
        },
    }


def _blkio(guest: Metrics | None) -> dict[str, Any]:
    """The counters of cgroup v2. The lists that only cgroup v1 has are null, as in dockerd and its API description."""

    def listed(read: str, write: str) -> list[dict[str, Any]]:
        return [
            {"major": one.major, "minor": one.minor, "op": op, "value": getattr(one, field)}
            for one in (guest.blocks if guest is not None else ())
            for op, field in (("read", read), ("write", write))
        ]

    return {
        "io_service_bytes_recursive": listed("read_bytes", "write_bytes"),
        "io_serviced_recursive": listed("reads", "writes"),
        "io_queue_recursive": None,
        "io_service_time_recursive": None,
        "io_wait_time_recursive": None,
        "io_merged_recursive": None,
        "io_time_recursive": None,
        "sectors_recursive": None,
    }
