"""From a machine that answers to a process that runs: what the guest is told, and what its refusals mean to Docker's users."""

import os
import re
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from appliance.container.spec import ROOT, build_spec
from appliance.diag import mark
from appliance.engine.machines.guest_config import (
    STATE,
    GuestConfig,
    MountPlan,
    network_config,
    own_mounts,
    state_files,
    volumes_of,
)
from appliance.engine.model.container import Container
from appliance.errors import InvalidParameter, VchError
from appliance.guest import GuestSession, Launched, StartRefused
from appliance.hypervisor import (
    SCRATCH,
    SHARE_TAG,
    VOLUME_OPTIONS,
    Disk,
    DiskAddress,
    GuestDisk,
    Machine,
    MachineSpec,
    Nic,
    ResourceShares,
    ScsiAddress,
    VirtioBlkPci,
    VirtioBlkSerial,
)
from appliance.logdrivers import buffer_bytes, drops_oldest
from appliance.network.network_record import Endpoint
from protos.tether.v1 import filesystem_pb2, network_pb2, process_pb2, sandbox_pb2
from protos.tether.v1.filesystem_pb2 import Mount

# What the kernel and the tether take of a machine's memory, MiB, beside the container's limit.
_OVERHEAD_MIB = 160
# Until all DHCP servers have answered.
_LEASE_SECONDS = 60.0
_BOOT_SECONDS = 120.0
_FOUND_SECONDS = 15.0


def machine_spec(
    container: Container,
    layers: list[Path],
    nics: Sequence[Nic],
    mount_plan: MountPlan,
    memory_mib: int,
    cpus: int,
    *,
    limited: bool = True,
) -> MachineSpec:
    """The container's own disk first, then the layers, lowest first, then volumes; if it is `limited`, memory and CPUs for its limits."""
    host = container.record.host if limited else {}
    limit = int(host.get("Memory") or 0) >> 20
    nano = int(host.get("NanoCpus") or 0)
    disks = [Disk(path, True) for path in layers]
    return MachineSpec(
        container.id,
        _memory_class(max(memory_mib, limit + _OVERHEAD_MIB if limit else 0), memory_mib),
        max(cpus, -(-nano // 1_000_000_000), _highest_cpu(host) + 1),
        (Disk(container.upper, False), *disks, *mount_plan.disks),
        nics[0] if nics else None,
        tuple(nics[1:]),
        mount_plan.shares,
        container.record.name,
    )


def resource_shares(host: dict[str, Any]) -> ResourceShares:
    """What a container's machine gets of a host that has too little for all."""
    return ResourceShares(int(host.get("CpuShares") or 0), int(host.get("MemoryReservation") or 0) >> 20)


def fits(machine: MachineSpec, host: dict[str, Any]) -> str:
    """Why limits need more than a machine has; "" when they do not."""
    limit = int(host.get("Memory") or 0) >> 20
    if limit + _OVERHEAD_MIB > machine.memory_mib and limit:
        return f"its machine has {machine.memory_mib} MiB, too few for that limit: restart it to get another one"
    wanted = -(-int(host.get("NanoCpus") or 0) // 1_000_000_000)
    if wanted > machine.cpus:
        return f"Range of CPUs is from 0.01 to {machine.cpus}.00, as there are only {machine.cpus} CPUs available: restart it to get more"
    highest = _highest_cpu(host)
    if highest >= machine.cpus:
        return f"Requested CPUs are not available - requested {host['CpusetCpus']}, available: 0-{machine.cpus - 1}: restart it to get more"
    return ""


def _highest_cpu(host: dict[str, Any]) -> int:
    """The highest of CpusetCpus, 0 when it says nothing."""
    return max((int(number) for number in re.findall("[0-9]+", host.get("CpusetCpus") or "")), default=0)


def _memory_class(wanted_mib: int, smallest_mib: int) -> int:
    """The default's size, doubled until it is enough: few sizes, so that few templates serve. The cgroup holds the exact limit."""
    size = smallest_mib
    while size < wanted_mib:
        size *= 2
    return size


def _mounts(disks: list[GuestDisk], mount_plan: MountPlan) -> list[Mount]:
    upper, *others = disks
    count = len(others) - len(mount_plan.disks)
    layers, volumes = others[:count], others[count:]
    mounts = [
        Mount(
            kind=Mount.DISK, target=f"{STATE}/layers/{number}", type="erofs", options=["ro"], disk=_disk(disk.address)
        )
        for number, disk in enumerate(layers)
    ]
    mounts.append(_ext4(f"{STATE}/upper", upper, SCRATCH.options))
    lower = [f"{STATE}/layers/{number}" for number in reversed(range(len(layers)))]
    if not lower:
        # An image without layers: an empty directory stands in.
        mounts.append(Mount(kind=Mount.PLAIN, target=f"{STATE}/layers/0", type="tmpfs", options=["ro"]))
        lower = [f"{STATE}/layers/0"]
    mounts.append(Mount(kind=Mount.OVERLAY, target=ROOT, lower=lower, upper=f"{STATE}/upper"))
    if mount_plan.shares:
        mounts.append(Mount(kind=Mount.SHARE, target=f"{STATE}/shares", source=SHARE_TAG))
    mounts += [_ext4(f"{STATE}/disks/{number}", disk, VOLUME_OPTIONS) for number, disk in enumerate(volumes)]
    return mounts


def _disk(address: DiskAddress) -> filesystem_pb2.Disk:
    match address:
        case ScsiAddress(adapter, target, lun, partition):
            return filesystem_pb2.Disk(adapter=adapter, target=target, lun=lun, partition=partition)
        case VirtioBlkSerial(serial, partition):
            return filesystem_pb2.Disk(serial=serial, partition=partition)
        case VirtioBlkPci(pci, partition):
            return filesystem_pb2.Disk(pci=pci, partition=partition)


def _ext4(target: str, disk: GuestDisk, options: Sequence[str]) -> Mount:
    """A disk that is written to; `options` are those of a file system that it may have to be given."""
    return Mount(
        kind=Mount.DISK,
        target=target,
        type="ext4",
        options=["discard", "noinit_itable"],
        disk=_disk(disk.address),
        blank=options if disk.blank else (),
    )


def _modules(host: dict[str, Any], mount_plan: MountPlan) -> list[str]:
    """Kernel modules behind what a container wants."""
    wanted = {device["PathOnHost"] for device in host.get("Devices") or ()}
    modules = [module for path, module in (("/dev/net/tun", "tun"), ("/dev/fuse", "fuse")) if path in wanted]
    if mount_plan.shares:
        modules.append("virtiofs")
    if any(placed.server is not None for placed in mount_plan.placed):
        modules.append("nfsv4")
    return modules


def launch_requests(
    machine_id: str,
    config: dict[str, Any],
    host: dict[str, Any],
    disks: list[GuestDisk],
    guest_config: GuestConfig,
    unmatched: int,
) -> tuple[sandbox_pb2.ConfigureRequest, process_pb2.CreateRequest]:
    """What a blank guest is told. `disks` are where it finds the container's own disk and the layers, lowest first.

    `unmatched`: see Machine.
    """
    configure = sandbox_pb2.ConfigureRequest(
        machine_id=machine_id,
        hostname=config["Hostname"],
        domainname=config.get("Domainname") or "",
        mounts=_mounts(disks, guest_config.mount_plan),
        volumes=volumes_of(guest_config.mount_plan, guest_config.endpoints),
        network=network_config(guest_config.endpoints, unmatched),
        modules=_modules(host, guest_config.mount_plan),
        files=state_files(config, host, guest_config),
    )
    linked = [entry for link in guest_config.links for entry in link.env]
    if linked:
        # What the container's own configuration says goes before.
        config = {**config, "Env": [*linked, *(config.get("Env") or ())]}
    log_options = (host.get("LogConfig") or {}).get("Config") or {}
    rows, columns = host.get("ConsoleSize") or (0, 0)
    process = process_pb2.CreateRequest(
        id=machine_id,
        spec=build_spec(config, host, config["Hostname"], own_mounts(guest_config.mount_plan)),
        stdin=bool(config.get("OpenStdin")),
        drop_oldest=drops_oldest(log_options),
        spool_bytes=min(buffer_bytes(log_options), 64 << 20),
        rows=rows,
        columns=columns,
    )
    return configure, process


def files_request(
    container: Container, machine: Machine, mount_plan: MountPlan, endpoint: Endpoint | None
) -> sandbox_pb2.ConfigureRequest:
    """What a blank guest is told that shows the container's files only; `endpoint` is its place on a network, if it has one."""
    return sandbox_pb2.ConfigureRequest(
        machine_id=container.id,
        mounts=_mounts(machine.guest_disks(), mount_plan),
        volumes=volumes_of(mount_plan),
        modules=_modules({}, mount_plan),
        network=network_config([endpoint], machine.unmatched_nics) if endpoint is not None else None,
    )


async def begin_fresh(
    session: GuestSession,
    stack: AsyncExitStack,
    container: Container,
    machine: Machine,
    guest_config: GuestConfig,
    take_leases: Callable[[Container, network_pb2.Leases], bool],
) -> Launched:
    """Configure the guest and start the container's process. StartRefused when the process cannot be.

    Where addresses are DHCP's, its files need to know them before: `take_leases` is told.
    """
    record = container.record
    configure, process = launch_requests(
        container.id, record.config, record.host, machine.guest_disks(), guest_config, machine.unmatched_nics
    )
    mark("spec made")
    before: sandbox_pb2.ConfigureRequest | None = configure
    if any(endpoint.network.dhcp for endpoint in container.endpoints):
        await session.configure(configure, _BOOT_SECONDS + _LEASE_SECONDS)
        take_leases(container, await session.leases())
        await session.write_files(
            sandbox_pb2.AwakenRequest(files=state_files(record.config, record.host, guest_config))
        )
        mark("addresses there")
        before = None
    launched = await stack.enter_async_context(session.launch(before, process, _BOOT_SECONDS))
    _mark_steps(launched.response.steps)
    return launched


def _mark_steps(steps: Sequence[sandbox_pb2.BootMark]) -> None:
    """The guest's steps on our clock: its last one ended just now, as far as we can know."""
    now = time.monotonic()
    for step in steps:
        mark(f"guest: {step.name[:64]}", now - (steps[-1].boottime_ns - step.boottime_ns) / 1e9)


async def begin_awakened(
    session: GuestSession, container: Container, guest_config: GuestConfig
) -> process_pb2.StartResponse:
    """Bring a guest that goes on from a checkpoint into the present. VchError when its process does not run."""
    record = container.record
    request = sandbox_pb2.AwakenRequest(
        network=network_config(guest_config.endpoints, len(guest_config.endpoints)),
        files=state_files(record.config, record.host, guest_config),
        close_connections=True,
    )
    closed = await session.awaken(request, _BOOT_SECONDS)
    mark(f"guest awake, {closed} connections ended")
    state = (await session.processes()).get(container.id)
    if state is None or state.phase not in (process_pb2.ProcessState.RUNNING, process_pb2.ProcessState.PAUSED):
        raise VchError("the checkpoint holds no running process")
    if state.phase == process_pb2.ProcessState.PAUSED:
        # A start is a start.
        await session.unpause(container.id)
    return process_pb2.StartResponse(pid=state.pid, started_ns=time.time_ns())


async def begin_found(session: GuestSession, container: Container) -> process_pb2.ProcessState:
    """A guest of an earlier appliance: its process, running or ended. VchError when it had not come so far."""
    # One that was just booting has nothing worth a long wait.
    await session.hello(_BOOT_SECONDS if container.running else _FOUND_SECONDS)
    state = (await session.processes()).get(container.id)
    if (
        state is None
        or state.phase == process_pb2.ProcessState.CREATED
        or (state.phase == process_pb2.ProcessState.EXITED and not state.pid)
    ):
        raise VchError("the appliance was stopped while this container was starting")
    return state


def exec_error(error: StartRefused) -> tuple[VchError, int]:
    """(The error with Docker's text, the exit code) of an exec that could not be started."""
    text, code = start_error(error)
    if text.startswith(_RUNC):
        return InvalidParameter(f"OCI runtime exec failed: exec failed: {text.removeprefix(_RUNC)}"), code
    return VchError(text), code


_RUNC = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
)
_UNABLE = "unable to start container process: "


def start_error(error: StartRefused) -> tuple[str, int]:
    """(Docker's text, the exit code that it records): clients derive 126 and 127 from these very words."""
    failure = error.failure
    kinds = process_pb2.StartFailure
    subject = failure.subject
    match failure.kind:
        case kinds.NOT_FOUND if failure.searched_path:
            return f'{_RUNC}{_UNABLE}exec: "{subject}": executable file not found in $PATH: unknown', 127
        case kinds.NOT_FOUND:
            return f'{_RUNC}{_UNABLE}exec: "{subject}": stat {subject}: no such file or directory: unknown', 127
        case kinds.PERMISSION if failure.errno == 21:
            return f'{_RUNC}{_UNABLE}exec: "{subject}": is a directory: unknown', 126
        case kinds.PERMISSION if failure.errno == 8:
            return f"{_RUNC}{_UNABLE}exec {subject}: exec format error", 126
        case kinds.PERMISSION:
            return f'{_RUNC}{_UNABLE}exec: "{subject}": permission denied: unknown', 126
        case kinds.NO_SUCH_USER:
            return f"unable to find user {subject}: no matching entries in passwd file", 126
        case kinds.NO_SUCH_GROUP:
            return f"unable to find group {subject}: no matching entries in group file", 126
        case kinds.BAD_WORKING_DIRECTORY:
            reason = os.strerror(failure.errno).lower()
            return f'{_RUNC}{_UNABLE}chdir to cwd ("{subject}") set in config.json failed: {reason}: unknown', 126
        case _:
            return f"{_RUNC}{_UNABLE}{error}: unknown", 128
