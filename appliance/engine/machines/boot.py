"""From a guest that answers to a process that runs: the machine's spec, the guest's setup, and Docker's texts for failed starts."""

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.container.config import ContainerConfig
from appliance.container.devices import pci_devices
from appliance.container.guest_paths import GuestPaths
from appliance.container.host_config import HostConfig
from appliance.container.spec import SHM_BYTES, build_spec
from appliance.diag import mark
from appliance.engine.machines.guest_config import (
    GuestConfig,
    network_config,
    own_mounts,
    process_config,
    state_files,
    volumes_of,
)
from appliance.engine.model.container import Container
from appliance.engine.model.layout import Layout, disk_targets, first_layout, tmpfs_target
from appliance.engine.model.mount_plan import MountPlan
from appliance.engine.model.pod import Pod
from appliance.errors import InvalidParameter, VchError
from appliance.guest import (
    BootStep,
    DiskMount,
    FailureKind,
    GuestMount,
    GuestSession,
    GuestSetup,
    GuestTunnel,
    Launched,
    Lease,
    OverlayMount,
    Phase,
    PlainMount,
    ProcessSetup,
    ProcessState,
    Resumption,
    ShareMount,
    StartedProcess,
    StartRefused,
)
from appliance.hypervisor import (
    SCRATCH,
    VOLUME_OPTIONS,
    Disk,
    GuestDisk,
    Machine,
    MachineSpec,
    Nic,
    ResourceShares,
)
from appliance.logdrivers import buffer_bytes, drops_oldest
from appliance.network.network_record import Endpoint

# Memory of the kernel and the tether, in addition to the container's limit. The kernel's page structures and hash tables take more
# in a larger machine: 1/64 and some.
_OVERHEAD_MIB = 152
_OVERHEAD_PART = 40
# Time for all DHCP servers to answer.
_LEASE_SECONDS = 60.0
_BOOT_SECONDS = 120.0
_FOUND_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class MachineSize:
    """Memory and CPUs of a machine whose container sets no limits."""

    memory_mib: int
    cpus: int


def machine_spec(
    container: Container,
    layers: list[Path],
    nics: Sequence[Nic],
    mount_plan: MountPlan,
    size: MachineSize,
    *,
    joiners: Sequence[HostConfig] | None = None,
    limited: bool = True,
) -> MachineSpec:
    """The machine of a container. Disks: the container's own, its layers (lowest first), its volumes.

    With `limited`, memory and CPUs fit the limits of the container and of its `joiners`, and memory fits the label `vch.machine-memory`,
    too; else the machine has the usual size. A machine with `joiners`, of which there may be none yet, is made so that it can grow.
    """
    host_config = container.record.host_config if limited else HostConfig()
    if limited:
        size = replace(size, memory_mib=_memory_class(-(-container.record.machine_memory >> 20), size.memory_mib))
    all_of = [host_config, *(joiners or ())]
    limit = sum(one.memory >> 20 for one in all_of)
    cpus = [max(-(-one.nano_cpus // 1_000_000_000), _highest_cpu(one) + 1) for one in all_of]
    disks = [Disk(path, True) for path in layers]
    return MachineSpec(
        container.id,
        _memory_class(max(size.memory_mib, least_memory(limit)), size.memory_mib),
        max(size.cpus, *cpus),
        (Disk(container.upper, False), *disks, *mount_plan.disks),
        nics[0] if nics else None,
        tuple(nics[1:]),
        mount_plan.shares,
        container.record.name,
        grows=joiners is not None,
        pci_devices=pci_devices(host_config),
    )


def resource_shares(host_configs: Iterable[HostConfig]) -> ResourceShares:
    """The share of a machine with these containers of a host that is short of CPU or memory."""
    all_of = list(host_configs)
    return ResourceShares(sum(one.cpu_shares for one in all_of), sum(one.memory_reservation >> 20 for one in all_of))


def fits(machine: MachineSpec, host_config: HostConfig, others_mib: int = 0) -> str:
    """Why a running machine is too small for new limits; "" when it is large enough. `others_mib`: limits of its other containers."""
    limit = others_mib + (host_config.memory >> 20) if host_config.memory else 0
    if least_memory(limit) > machine.memory_mib:
        return f"its VM has {machine.memory_mib} MiB, too few for that limit: restart the container to get a larger VM"
    wanted = -(-host_config.nano_cpus // 1_000_000_000)
    if wanted > machine.cpus:
        return f"Range of CPUs is from 0.01 to {machine.cpus}.00, as there are only {machine.cpus} CPUs available: restart it to get more"
    highest = _highest_cpu(host_config)
    if highest >= machine.cpus:
        cpus = f"requested {host_config.cpuset_cpus}, available: 0-{machine.cpus - 1}"
        return f"Requested CPUs are not available - {cpus}: restart it to get more"
    return ""


def _highest_cpu(host_config: HostConfig) -> int:
    """The highest CPU number in CpusetCpus, 0 when it is empty."""
    return max((int(number) for number in re.findall("[0-9]+", host_config.cpuset_cpus)), default=0)


def least_memory(limit_mib: int) -> int:
    """The memory of a machine, in MiB, whose container can use all of its limit; 0 without a limit."""
    return limit_mib + limit_mib // _OVERHEAD_PART + _OVERHEAD_MIB if limit_mib else 0


def _memory_class(wanted_mib: int, smallest_mib: int) -> int:
    """The smallest size, doubled until it is enough: with few sizes, few templates serve. The cgroup enforces the exact limit."""
    size = smallest_mib
    while size < wanted_mib:
        size *= 2
    return size


def container_mounts(layout: Layout, mount_plan: MountPlan, host_config: HostConfig) -> list[GuestMount]:
    """The mounts that make up a container's root and the sources of its volumes."""
    base = layout.paths.base
    volumes = len(mount_plan.disks)
    layers = len(layout.disks) - volumes - 1
    (upper, upper_disk), *others = zip(disk_targets(base, layers, volumes), layout.disks, strict=True)
    mounts: list[GuestMount] = [_layer(target, disk) for target, disk in others[:layers]]
    mounts.append(_ext4(upper, upper_disk, SCRATCH.options))
    lower = [target for target, _ in reversed(others[:layers])]
    if not lower:
        # An image without layers: overlayfs needs a lower directory, so it gets an empty one.
        lower = [f"{base}/layers/0"]
        mounts.append(PlainMount(lower[0], "tmpfs", ("ro",)))
    mounts.append(OverlayMount(layout.paths.root, lower, upper))
    if layout.share_tag:
        mounts.append(ShareMount(layout.share_target, layout.share_tag))
    mounts += [_ext4(target, disk, VOLUME_OPTIONS) for target, disk in others[layers:]]
    for number, volume in enumerate(mount_plan.tmpfs_volumes):
        # In the guest, as /dev/shm below. Docker's local driver gives the kernel the volume's options and no others.
        target, present = tmpfs_target(base, number), layout.tmpfs.get(volume.name)
        mounts.append(_bound(target, present) if present else PlainMount(target, "tmpfs", volume.options))
    if layout.paths.shm == f"{base}/shm":
        # In the guest and not in the container's own namespace, so that other containers can have it.
        size = f"size={host_config.shm_size or SHM_BYTES}"
        mounts.append(PlainMount(layout.paths.shm, "tmpfs", ("nosuid", "noexec", "nodev", "mode=1777", size)))
    return mounts


def _layer(target: str, disk: GuestDisk | str) -> GuestMount:
    if isinstance(disk, str):
        return _bound(target, disk)
    return DiskMount(target, "erofs", disk, ("ro",))


def _ext4(target: str, disk: GuestDisk | str, format_options: Sequence[str]) -> GuestMount:
    """A writable disk. The guest formats it with `format_options` if it is blank."""
    if isinstance(disk, str):
        return _bound(target, disk)
    return DiskMount(target, "ext4", disk, ("discard", "noinit_itable"), format_options)


def _bound(target: str, source: str) -> PlainMount:
    """What another container has mounted at `source`. The bind keeps the file system when that container leaves."""
    return PlainMount(target, "", ("bind",), source)


def kernel_modules(mount_plan: MountPlan) -> list[str]:
    """Kernel modules that the container's mounts need. The guest's kernel loads all others at their first use."""
    modules = ["virtiofs"] if mount_plan.shares else []
    if any(placed.server is not None for placed in mount_plan.placed):
        modules.append("nfsv4")
    return modules


def launch_setup(
    machine_id: str,
    config: ContainerConfig,
    host_config: HostConfig,
    layout: Layout,
    guest_config: GuestConfig,
    unmatched: int,
) -> tuple[GuestSetup, ProcessSetup]:
    """The setup and the process of the first container of a machine.

    `unmatched`: how many NICs the guest cannot find by their MAC address, see Machine.
    """
    setup = GuestSetup(
        machine_id=machine_id,
        hostname=config.hostname,
        domainname=config.domainname,
        mounts=container_mounts(layout, guest_config.mount_plan, host_config),
        volumes=volumes_of(guest_config.mount_plan, layout, guest_config.endpoints),
        network=network_config(guest_config.endpoints, unmatched),
        modules=kernel_modules(guest_config.mount_plan),
        files=state_files(config, host_config, guest_config),
    )
    return setup, process_setup(machine_id, config, host_config, layout, guest_config)


def process_setup(
    process_id: str, config: ContainerConfig, host_config: HostConfig, layout: Layout, guest_config: GuestConfig
) -> ProcessSetup:
    """The first process of a container."""
    own = process_config(config, host_config, guest_config.links, guest_config.ulimits)
    mounts = own_mounts(guest_config.mount_plan, layout)
    log_options = host_config.log_config.config
    rows, columns = host_config.console_size or (0, 0)
    return ProcessSetup(
        id=process_id,
        spec=build_spec(own.config, own.host_config, config.hostname, mounts, layout.paths),
        stdin=config.open_stdin,
        drop_oldest=drops_oldest(log_options),
        spool_bytes=min(buffer_bytes(log_options), 64 << 20),
        rows=rows,
        columns=columns,
    )


def files_setup(container: Container, machine: Machine, mount_plan: MountPlan, endpoint: Endpoint | None) -> GuestSetup:
    """The setup of a guest that only shows the container's files. `endpoint` puts it on a network."""
    layout = first_layout(machine.guest_disks(), len(mount_plan.shares))
    return GuestSetup(
        machine_id=container.id,
        mounts=container_mounts(layout, mount_plan, HostConfig()),
        volumes=volumes_of(mount_plan, layout),
        modules=kernel_modules(mount_plan),
        network=network_config([endpoint], machine.unmatched_nics) if endpoint is not None else None,
    )


async def begin_fresh(
    pod: Pod,
    stack: AsyncExitStack,
    container: Container,
    paths: GuestPaths,
    guest_config: GuestConfig,
    take_leases: Callable[[Container, Sequence[Lease]], bool],
) -> Launched:
    """Configure the guest and start the container's process. StartRefused when the process cannot be.

    `take_leases` records the addresses that DHCP servers give: the container's files contain them, so they come first.
    """
    record, machine, session = container.record, pod.machine, pod.session
    setup, process = launch_setup(
        container.id,
        record.config,
        record.host_config,
        first_layout(machine.guest_disks(), len(guest_config.mount_plan.shares), paths),
        guest_config,
        machine.unmatched_nics,
    )
    mark("spec made")
    before: GuestSetup | None = setup
    if guest_config.mount_plan.sockets:
        # Before the process runs, which may connect at once.
        await GuestTunnel(session).listen(guest_config.mount_plan.sockets, _BOOT_SECONDS)
        mark("sockets there")
    if any(endpoint.network.dhcp for endpoint in container.endpoints):
        await session.configure(setup, _BOOT_SECONDS + _LEASE_SECONDS)
        take_leases(container, await session.leases())
        await session.write_files(state_files(record.config, record.host_config, guest_config))
        mark("addresses there")
        before = None
    launched = await stack.enter_async_context(session.launch(before, process, _BOOT_SECONDS))
    _mark_steps(launched.steps)
    return launched


def _mark_steps(steps: Sequence[BootStep]) -> None:
    """Record the guest's steps in the trace, on our clock. The last step counts as ended now."""
    now = time.monotonic()
    for step in steps:
        mark(f"guest: {step.name[:64]}", now - (steps[-1].boottime_ns - step.boottime_ns) / 1e9)


async def begin_awakened(session: GuestSession, container: Container, guest_config: GuestConfig) -> StartedProcess:
    """Resume a guest that was restored from a checkpoint. VchError when its process does not run."""
    record = container.record
    resumption = Resumption(
        network=network_config(guest_config.endpoints, len(guest_config.endpoints)),
        files=state_files(record.config, record.host_config, guest_config),
        close_connections=True,
    )
    closed = await session.awaken(_BOOT_SECONDS, resumption)
    mark(f"guest awake, {closed} connections ended")
    state = (await session.processes()).get(container.id)
    if state is None or state.phase not in (Phase.RUNNING, Phase.PAUSED):
        raise VchError("the checkpoint holds no running process")
    if state.phase is Phase.PAUSED:
        # The client asked for a start, so the process runs even if the checkpoint was made of a paused container.
        await session.unpause(container.id)
    return StartedProcess(state.pid, time.time_ns())


async def begin_found(session: GuestSession, container: Container) -> ProcessState:
    """The process, running or ended, of a guest that an earlier daemon started. VchError when the process had not started."""
    # A guest that was still booting has no process to save, so the wait is short.
    await session.hello(_BOOT_SECONDS if container.running else _FOUND_SECONDS)
    state = (await session.processes()).get(container.id)
    if state is None or state.phase is Phase.CREATED or (state.phase is Phase.EXITED and not state.pid):
        raise VchError("the daemon was stopped while this container was starting")
    return state


def exec_error(error: StartRefused) -> tuple[VchError, int]:
    """(The error with Docker's text, the exit code) of an exec that did not start."""
    text, code = start_error(error)
    if text.startswith(_RUNC):
        return InvalidParameter(f"OCI runtime exec failed: exec failed: {text.removeprefix(_RUNC)}"), code
    return VchError(text), code


_RUNC = (
    "failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: "
)
_UNABLE = "unable to start container process: "


def start_error(error: StartRefused) -> tuple[str, int]:
    """(Docker's text, the exit code). Clients parse the text: the CLI derives its exit codes 126 and 127 from it."""
    failure = error.failure
    kinds = FailureKind
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
