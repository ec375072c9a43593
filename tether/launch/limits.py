"""OCI limits as the interface files of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst). Pure."""

from tether.launch.oci import Resources


def cgroup_files(resources: Resources) -> dict[str, str]:
    """Return {file: value}. Absent limits have no file. OCI counts in the units of cgroup v1; the values are those of v2."""
    files: dict[str, str] = {}
    memory, cpu, pids = resources.memory, resources.cpu, resources.pids
    if memory.limit is not None:
        files["memory.max"] = "max" if memory.limit <= 0 else str(memory.limit)
    if memory.reservation:
        files["memory.low"] = str(memory.reservation)
    if memory.swap is not None and memory.limit is not None:
        # OCI counts memory and swap together, cgroup v2 swap alone.
        files["memory.swap.max"] = "max" if memory.swap < 0 else str(max(0, memory.swap - memory.limit))
    if cpu.shares:
        # The range 2 to 262144 of shares maps to 1 to 10000 of weight, as runc does it.
        shares = min(max(cpu.shares, 2), 262144)
        files["cpu.weight"] = str(1 + (shares - 2) * 9999 // 262142)
    if cpu.quota or cpu.period:
        quota = cpu.quota if cpu.quota and cpu.quota > 0 else "max"
        files["cpu.max"] = f"{quota} {cpu.period or 100000}"
    if cpu.cpus:
        files["cpuset.cpus"] = cpu.cpus
    if cpu.mems:
        files["cpuset.mems"] = cpu.mems
    if pids is not None:
        files["pids.max"] = "max" if pids.limit <= 0 else str(pids.limit)
    return files
