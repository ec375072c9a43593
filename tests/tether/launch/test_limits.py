"""OCI limits in the units of cgroup v2."""

import pytest

from tether.launch.limits import cgroup_files
from tether.launch.oci import Cpu, Memory, Pids, Resources


@pytest.mark.parametrize(
    ("resources", "files"),
    [
        (Resources(), {}),
        (Resources(Memory(limit=1 << 20)), {"memory.max": "1048576"}),
        (Resources(Memory(limit=-1)), {"memory.max": "max"}),
        (Resources(Memory(limit=100, swap=300)), {"memory.max": "100", "memory.swap.max": "200"}),
        (Resources(Memory(limit=100, swap=100)), {"memory.max": "100", "memory.swap.max": "0"}),
        (Resources(Memory(limit=100, swap=-1)), {"memory.max": "100", "memory.swap.max": "max"}),
        (Resources(Memory(swap=300)), {}),
        (Resources(Memory(reservation=50)), {"memory.low": "50"}),
        (Resources(cpu=Cpu(shares=1024)), {"cpu.weight": "39"}),
        (Resources(cpu=Cpu(shares=2)), {"cpu.weight": "1"}),
        (Resources(cpu=Cpu(shares=1)), {"cpu.weight": "1"}),
        (Resources(cpu=Cpu(shares=1 << 20)), {"cpu.weight": "10000"}),
        (Resources(cpu=Cpu(quota=50_000)), {"cpu.max": "50000 100000"}),
        (Resources(cpu=Cpu(quota=50_000, period=25_000)), {"cpu.max": "50000 25000"}),
        (Resources(cpu=Cpu(quota=-1)), {"cpu.max": "max 100000"}),
        (Resources(cpu=Cpu(cpus="0-1", mems="0")), {"cpuset.cpus": "0-1", "cpuset.mems": "0"}),
        (Resources(pids=Pids(64)), {"pids.max": "64"}),
        (Resources(pids=Pids(-1)), {"pids.max": "max"}),
    ],
)
def test_files(resources: Resources, files: dict[str, str]) -> None:
    assert cgroup_files(resources) == files
