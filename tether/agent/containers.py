"""The containers of the guest. Sandbox.Configure prepares the first one, Sandbox.Add each further one; Sandbox.Remove undoes both.

A container ends alone: its disks have to be free when it is removed, while its neighbours run on.
"""

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio

from protos.tether.v1 import filesystem_pb2, sandbox_pb2
from tether.agent import modules, network, volumes
from tether.agent.child import child
from tether.agent.dhcp import Leases
from tether.agent.files import block_name, make_mount
from tether.agent.network import GUEST_NETWORK, ContainerNetwork
from tether.agent.process_table import ID, Phase, ProcessTable
from tether.agent.reaper import Reaper
from tether.agent.tunnel import TunnelService
from tether.launch.layout import ROOT, base_of
from tether.launch.namespaces import open_namespace
from tether.launch.prefetch import prefetch
from tether.launch.spec import Spec
from tether.rpc.status import Code, RpcError
from tether.system import linux
from tether.system.network_namespace import entered, make_network_namespace
from tether.system.rtnetlink import Rtnetlink, nics

# Time for killed processes to end, and for the kernel to let go of the disks of a container.
_END_SECONDS = 10.0
_RELEASE_SECONDS = 5.0
_POLL_SECONDS = 0.01
# Directories of a container in which mount points are made.
_PARENTS = ("layers", "disks", "served", "tmpfs")

Mark = Callable[[str], None]
"""Notes the end of a step of a launch, by name."""


class _Container(NamedTuple):
    """`base` is the directory that has its files; `request` prepared it. `network` is None when it shares that of another container."""

    base: str
    request: sandbox_pb2.ConfigureRequest | sandbox_pb2.AddRequest
    network: ContainerNetwork | None


class Containers:
    """The containers that the guest has been prepared for, by id. The empty id names the first container."""

    def __init__(self, reaper: Reaper, processes: ProcessTable, leases: Leases, tunnel: TunnelService) -> None:
        self._reaper = reaper
        self._processes = processes
        self._leases = leases
        self._tunnel = tunnel
        self._containers: dict[str, _Container] = {}
        self._locks: dict[str, trio.Lock] = {}
        self._is_blank = True
        # Where shares are mounted. They stay until the machine ends: the appliance gives a share to later containers, too.
        self._shares: set[str] = set()

    # -- looking up -----------------------------------------------------------------------------------------------

    def _find(self, container_id: str) -> _Container:
        container = self._containers.get(container_id)
        if container is None:
            raise RpcError(Code.NOT_FOUND, f"no such container in this machine: {container_id[:128]}")
        return container

    def base(self, container_id: str) -> str:
        """Return the directory that has a container's files. RpcError NOT_FOUND when there is no such container."""
        return self._find(container_id).base if container_id else ROOT

    def network(self, container_id: str) -> ContainerNetwork:
        """Return the network of a container. RpcError: NOT_FOUND, or FAILED_PRECONDITION when it shares that of another container."""
        found = self._find(container_id).network if container_id else GUEST_NETWORK
        if found is None:
            raise RpcError(Code.FAILED_PRECONDITION, f"container {container_id} has no network of its own")
        return found

    def own_namespace(self, container_id: str) -> int:
        """Return a descriptor of the network namespace that a container has for itself; -1 when it has none."""
        container = self._containers.get(container_id)
        return container.network.namespace if container is not None and container.network is not None else -1

    # -- prepare --------------------------------------------------------------------------------------------------

    async def configure(self, request: sandbox_pb2.ConfigureRequest, program: Spec | None, mark: Mark) -> None:
        """Make the mounts, NICs and volumes of the first container."""
        first = _Container(ROOT, request, GUEST_NETWORK)
        await self._prepare(first, GUEST_NETWORK.namespace, program, mark)
        self._containers[request.machine_id] = first
        self._is_blank = False

    async def add(
        self,
        request: sandbox_pb2.AddRequest,
        *,
        network_of: str = "",
        program: Spec | None = None,
        mark: Mark = lambda _: None,
    ) -> None:
        """Prepare a further container, unless it is there. `network_of` is the process whose network it will share."""
        _check(request, network_of)
        async with self._lock(request.id):
            if request.id in self._containers:
                return
            if self._is_blank:
                raise RpcError(Code.FAILED_PRECONDITION, "this VM is not configured")
            # Never cancelled half-way: a disk that is half formatted is no longer blank, nor is a volume that is half filled.
            with trio.CancelScope(shield=True):
                await self._add(request, network_of, program, mark)

    async def _add(self, request: sandbox_pb2.AddRequest, network_of: str, program: Spec | None, mark: Mark) -> None:
        base = base_of(request.id)
        try:
            own = make_network_namespace() if request.own_network else -1
        except OSError as error:
            raise RpcError(Code.FAILED_PRECONDITION, f"network namespace: {error}") from error
        container = _Container(base, request, ContainerNetwork(own, request.hostname[:64]) if own >= 0 else None)
        self._containers[request.id] = container
        shared = -1
        try:
            for name in request.modules:
                modules.load(name)
            write_files(request.files, f"{base}/files")
            mark("names and files")
            if network_of and any(volume.type for volume in request.volumes):
                shared = open_namespace(self._processes.pid_of(network_of), "network")
            await self._prepare(container, max(own, shared), program, mark)
        except BaseException as error:
            await self._release(request.id, ())
            if isinstance(error, OSError):
                raise RpcError(Code.FAILED_PRECONDITION, f"add {request.id[:12]}: {error}") from error
            raise
        finally:
            if shared >= 0:
                os.close(shared)

    async def _prepare(self, container: _Container, namespace: int, program: Spec | None, mark: Mark) -> None:
        """`namespace` is the network namespace in which volumes of file servers are mounted."""
        request = container.request
        for mount in request.mounts:
            if mount.kind == filesystem_pb2.Mount.SHARE:
                self._shares.add(mount.target)
            await make_mount(self._reaper, mount)
            mark(f"mounted {mount.target.rpartition('/')[2]}")
        if container.network is not None:
            await network.apply(request.network, self._leases, container.network)
            mark("network")
        if any(volume.source.startswith(f"{modules.DISK}/") for volume in request.volumes):
            await modules.mount_disk(self._reaper)
            mark("modules disk")
        show = program is None and container.base == ROOT
        await volumes.prepare(request.volumes, self._reaper, show=show, base=container.base, namespace=namespace)
        if program is not None:
            prefetch(program)

    # -- remove ---------------------------------------------------------------------------------------------------

    async def remove(self, request: sandbox_pb2.RemoveRequest) -> None:
        """Kill and forget a container's processes, and free its disks. RpcError ABORTED when a neighbour keeps a disk in use."""
        _check_id(request.id)
        async with self._lock(request.id):
            await self._end_processes(request.id)
            self._tunnel.close_sockets(request.sockets)
            await self._release(request.id, request.disks)

    def clear(self) -> None:
        """The guest is blank again."""
        self._containers.clear()
        self._shares.clear()
        self._is_blank = True

    def _lock(self, container_id: str) -> trio.Lock:
        # Locks that nobody holds are dropped, so their number is bounded.
        self._locks = {name: lock for name, lock in self._locks.items() if lock.locked()}
        return self._locks.setdefault(container_id, trio.Lock())

    async def _end_processes(self, container_id: str) -> None:
        members = [entry for entry in self._processes.entries() if container_id in (entry.id, entry.join)]
        with trio.move_on_after(_END_SECONDS) as waiting:
            for entry in members:
                if entry.phase is Phase.STARTING:
                    await entry.started.wait()
            groups = {entry.cgroup.path: entry.cgroup for entry in members if entry.cgroup is not None}
            for group in groups.values():
                with suppress(FileNotFoundError):
                    group.kill()
                while True:
                    if not group.is_populated():
                        break
                    await trio.sleep(_POLL_SECONDS)
            for entry in members:
                if entry.output is not None:
                    await entry.reaped.wait()
                    # Nobody reads the rest of the output, and a full spool would wait for that.
                    entry.output.cancel()
                    await entry.ended.wait()
        if waiting.cancelled_caught:
            raise RpcError(Code.ABORTED, f"processes of container {container_id} do not end")
        for entry in members:
            self._processes.delete(entry.id)

    async def _release(self, container_id: str, disks: Iterable[filesystem_pb2.Disk]) -> None:
        """Undo `_prepare`, as far as it came."""
        container = self._containers.get(container_id)
        base = container.base if container is not None else base_of(container_id)
        if container is not None and container.network is not None:
            await self._take_down(container.network)
        targets = self._mounts_of(base)
        async with child(self._reaper, lambda _, __: _free(targets, list(disks))) as one:
            await one.finish()
        for name in ("files", "init"):
            shutil.rmtree(f"{base}/{name}", ignore_errors=True)
        if base != ROOT and os.path.isdir(base):
            self._remove_mount_points(base)
        if container is not None:
            del self._containers[container_id]
            if container.network is not None and container.network.namespace >= 0:
                os.close(container.network.namespace)

    async def _take_down(self, container_network: ContainerNetwork) -> None:
        """Leave only the loopback interface: processes of other containers may share the namespace, and the NICs are unplugged."""
        async with container_network.changing:
            await self._leases.keep({}, "", container_network.namespace)
            with entered(container_network.namespace):
                for index, _, _ in nics():
                    try:
                        with Rtnetlink() as rtnetlink:
                            rtnetlink.set_link(index, up=False)
                    except OSError as error:
                        if error.errno != errno.ENODEV:
                            raise RpcError(Code.FAILED_PRECONDITION, f"network: {error}") from error

    def _remove_mount_points(self, base: str) -> None:
        """Remove the empty directories of a further container. A mounted share is not entered: its directories are the host's."""
        for name in os.listdir(base):
            path = f"{base}/{name}"
            if any(f"{share}/".startswith(f"{path}/") for share in self._shares):
                continue
            below = [f"{path}/{number}" for number in os.listdir(path)] if name in _PARENTS else []
            for directory in (*below, path):
                with suppress(OSError):
                    os.rmdir(directory)
        with suppress(OSError):
            os.rmdir(base)

    def _mounts_of(self, base: str) -> list[str]:
        """Return the mount points of a container, the last one first, without those that belong to the machine."""
        kept = [*self._shares, *modules.MOUNTS]
        if base == ROOT:
            kept.append(f"{ROOT}/containers")
        return [
            target
            for target in reversed(mount_points(base))
            if not any(target == path or target.startswith(f"{path}/") for path in kept)
        ]


def _check_id(container_id: str) -> None:
    # It names a directory, too.
    if not ID.fullmatch(container_id) or container_id.startswith("."):
        raise RpcError(
            Code.INVALID_ARGUMENT, "a container id is 1 to 128 of [A-Za-z0-9_.-], and does not begin with a dot"
        )


def _check(request: sandbox_pb2.AddRequest, network_of: str) -> None:
    _check_id(request.id)
    if request.own_network and network_of:
        raise RpcError(Code.INVALID_ARGUMENT, "a container has a network of its own, or shares one")
    if not request.own_network and (request.network.interfaces or request.network.filter):
        raise RpcError(Code.INVALID_ARGUMENT, "NICs are for a container with a network of its own")
    if any(interface.set_mac for interface in request.network.interfaces):
        raise RpcError(Code.INVALID_ARGUMENT, "set_mac is for the first container's NICs")


def write_files(files: Iterable[sandbox_pb2.StateFile], directory: str) -> None:
    """Write state files. Overwrite in place: containers have these files bind-mounted, by inode."""
    os.makedirs(directory, exist_ok=True)
    for file in files:
        if "/" in file.name or file.name in ("", ".", ".."):
            raise RpcError(Code.INVALID_ARGUMENT, f"not a plain file name: {file.name}")
        fd = os.open(f"{directory}/{file.name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, file.content)
            os.fchmod(fd, file.mode or 0o644)
        finally:
            os.close(fd)


def mount_points(directory: str) -> list[str]:
    """Return the mount points below a directory, in mount order."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    targets = [line.split()[1].replace("\\040", " ") for line in lines]
    return [target for target in targets if target.startswith(f"{directory}/")]


def _free(targets: Sequence[str], disks: Sequence[filesystem_pb2.Disk]) -> None:
    """In a child: unmount, and wait until no file system of the disks is in use. RpcError ABORTED when one stays in use.

    A neighbour may hold a file of the container, by /proc/PID/root in a shared pid namespace. Its mount namespace then keeps the disk.
    """
    for target in targets:
        # Lazy, because a mount of a file server that does not answer cannot be unmounted otherwise.
        try:
            linux.umount(target, linux.MNT_DETACH)
        except OSError as error:
            # It went with the mount that it was in.
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise
    deadline = time.monotonic() + _RELEASE_SECONDS
    for disk in disks:
        while _is_in_use(disk):
            if time.monotonic() >= deadline:
                raise RpcError(Code.ABORTED, "a process of another container uses a disk of this container")
            time.sleep(_POLL_SECONDS)


def _is_in_use(disk: filesystem_pb2.Disk) -> bool:
    """Whether the kernel has a file system of the disk mounted, in any mount namespace: that holds the device exclusively."""
    name = block_name(disk)
    if name is None:
        return False
    try:
        os.close(os.open(f"/dev/{name}{disk.partition or ''}", os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        # All other errors mean that the disk is being unplugged.
        return error.errno == errno.EBUSY
    return False
