"""Decides which containers share a machine: this module alone knows what makes a container join a pod."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import trio

from appliance.container.container_record import SeatRecord
from appliance.container.devices import pci_devices
from appliance.container.guest_paths import GuestPaths
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Starting, status_word
from appliance.container.sharing import (
    SharedNamespaces,
    Target,
    check_targets,
    different_machines,
    shared_namespaces,
    shares_namespaces,
)
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.machines.boot import fits, least_memory, resource_shares
from appliance.engine.machines.joining import Joining
from appliance.engine.machines.provisioner import MachineProvisioner
from appliance.engine.machines.suspend_watcher import suspended_machine
from appliance.engine.model.container import Container
from appliance.engine.model.mount_plan import MountPlan, TmpfsVolume
from appliance.engine.model.pod import Devices, Pod, Seat
from appliance.engine.model.registry import ContainerRegistry
from appliance.errors import Conflict, NotFound, Unsupported
from appliance.guest import GuestContainers, GuestSession
from appliance.hypervisor import Disk, Machine, ResourceShares, SetShares, Share, TakesDisks

_TARGET_SECONDS = 60.0


class Pods:
    """The pods of the daemon. A machine has the id of the container that it was made for.

    `volume_disks` and `tmpfs_volumes` are those of a container. `nursery` runs the sessions of the pods.
    """

    def __init__(
        self,
        provisioner: MachineProvisioner,
        registry: ContainerRegistry,
        volume_disks: Callable[[Container], list[Disk]],
        tmpfs_volumes: Callable[[Container], list[TmpfsVolume]],
        nursery: trio.Nursery,
    ) -> None:
        self._provisioner = provisioner
        self._registry = registry
        self._volume_disks = volume_disks
        self._tmpfs_volumes = tmpfs_volumes
        self._tasks = IsolatedTasks(nursery)
        self._pods: dict[str, Pod] = {}
        # A lock exists while a task holds it or waits for it.
        self._locks: WeakValueDictionary[tuple[str, str], trio.Lock] = WeakValueDictionary()

    # -- machines -----------------------------------------------------------------------------------------------------

    def turn(self) -> AbstractAsyncContextManager[None]:
        """See MachineProvisioner."""
        return self._provisioner.turn()

    async def begin(self, container: Container, mount_plan: MountPlan, checkpoint: Path | None = None) -> Pod:
        """A pod with a machine that is made for the container, which has its seat there. `checkpoint`: see MachineProvisioner."""
        spec = self._provisioner.spec(container, mount_plan, self._expected(container))
        machine, session = await self._provisioner.get(spec, checkpoint)
        pod = self._add(machine, session)
        tmpfs = [volume.name for volume in mount_plan.tmpfs_volumes]
        pod.note_mounts(pod.sit(container.id, first=True), spec.disks, len(mount_plan.disks), tmpfs)
        return pod

    def _expected(self, container: Container) -> list[HostConfig] | None:
        """The settings of created containers that will join the container's machine, directly or through others.

        None when the machine need not grow: no container names the container yet, and it is in no `vch.machine`.
        """
        name = (container.record.owner, container.record.machine_name)
        group = {container.id, container.record.name}
        found: list[Container] = []
        sharing = [
            (other, shared_namespaces(other.record.host_config).targets)
            for other in self._registry.all()
            if other.record.machine_name or shares_namespaces(other.record.host_config)
        ]
        grown = True
        while grown:
            grown = False
            for other, targets in sharing:
                named = bool(name[1]) and name == (other.record.owner, other.record.machine_name)
                if (named or not group.isdisjoint(targets)) and other is not container and other not in found:
                    found.append(other)
                    group |= {other.id, other.record.name}
                    grown = True
        return [other.record.host_config for other in found] if found or name[1] else None

    async def adopt(self, container: Container, machine: Machine) -> Pod:
        """The pod of a machine that an earlier daemon left on, in which the container has a seat, as all others that had one.

        HypervisorError when the machine cannot be reached.
        """
        async with self._locks.setdefault(("", machine.id), trio.Lock()):
            pod = self._pods.get(machine.id)
            if pod is None:
                session = await self._provisioner.dial(machine)
                # In one turn, so that no container finds itself to be the last one.
                pod = self._add(machine, session)
                for other in self._registry.all():
                    seat = other.record.seat
                    if seat is not None and seat.machine == machine.id:
                        self._sit_again(other, pod, seat)
                if container.id not in pod.seats:
                    # The record is of a version whose machines had one container.
                    self._sit_again(container, pod, SeatRecord(machine.id))
            return pod

    def _sit_again(self, container: Container, pod: Pod, record: SeatRecord) -> None:
        seat = pod.take_seat(Seat(container.id, record.number, record.first))
        volumes = self._volume_disks(container)
        tmpfs = [volume.name for volume in self._tmpfs_volumes(container)]
        if record.first:
            # What the machine was made of, whatever has become of the image.
            disks = pod.machine.spec.disks
            pod.note_mounts(seat, disks, sum(disk in volumes for disk in disks), tmpfs)
        else:
            pod.note_mounts(seat, self._provisioner.disks(container, volumes), len(volumes), tmpfs)
        numbers = (number for number, mount in enumerate(container.record.mounts) if mount.api or mount.relay)
        seat.sockets = tuple(seat.first_socket + number for number in numbers)

    def _add(self, machine: Machine, session: GuestSession) -> Pod:
        pod = self._pods[machine.id] = Pod(machine, session)
        self._tasks.start_soon(self._run, pod)
        return pod

    async def _run(self, pod: Pod) -> None:
        try:
            await pod.run()
        finally:
            if self._pods.get(pod.machine.id) is pod:
                del self._pods[pod.machine.id]

    # -- who joins whom -----------------------------------------------------------------------------------------------

    def of(self, container: Container) -> Pod | None:
        """The pod in which a container has a seat."""
        return next((pod for pod in self._pods.values() if container.id in pod.seats), None)

    def of_machine(self, machine_id: str) -> Pod | None:
        """The pod of a machine."""
        return self._pods.get(machine_id)

    @asynccontextmanager
    async def place(self, container: Container) -> AsyncIterator[Pod | None]:
        """The pod that a container joins, where it has a seat then; None when a machine is to be made for the container.

        Other containers of the same `vch.machine` wait until the block ends. Errors have Docker's texts and statuses; Conflict and
        Unsupported say why the machine cannot take the container.
        """
        async with AsyncExitStack() as stack:
            record = container.record
            if record.machine_name:
                key = (record.owner, record.machine_name)
                await stack.enter_async_context(self._locks.setdefault(key, trio.Lock()))
            while True:
                await self._wait_recovered(container)
                pod, reason = self._find(container)
                if pod is None or not pod.ending:
                    break
                # A new machine would have the same id.
                await pod.gone.wait()
            if pod is not None:
                # From now on the machine does not end.
                pod.sit(container.id, first=False)
                try:
                    await self._check(container, pod, reason)
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await pod.leave(container.id, clean=False)
                    raise
            yield pod

    async def wait_targets(self, container: Container) -> None:
        """Return when no container whose namespaces the container joins is starting or about to restart, or after a minute.

        Only automatic restarts wait: a client gets Docker's error at once.
        """
        for ref in shared_namespaces(container.record.host_config).targets:
            target = self._found(ref)
            if target is not None:
                with trio.move_on_after(_TARGET_SECONDS):
                    while not target.removed and (isinstance(target.state, Starting) or target.restarting):
                        await target.changed.wait()

    async def _wait_recovered(self, container: Container) -> None:
        for ref in shared_namespaces(container.record.host_config).targets:
            target = self._found(ref)
            if target is not None:
                await target.wait_recovered()

    def _found(self, ref: str) -> Container | None:
        try:
            return self._registry.get(ref)
        except NotFound:
            return None

    def _find(self, container: Container) -> tuple[Pod | None, Container]:
        """The pod that a container joins, and the container in it that is the reason."""
        record = container.record
        shared = shared_namespaces(record.host_config)
        if shared.targets:
            check_targets(container.id, record.host_config, self._target)
            targets = [self._registry.get(ref) for ref in shared.targets]
            pods = [self.of(target) for target in targets]
            for target, pod in zip(targets, pods, strict=True):
                if pod is not pods[0]:
                    raise different_machines(targets[0].record.name, target.record.name)
            return pods[0], targets[0]
        if record.machine_name:
            for other in self._registry.all():
                same = (other.record.owner, other.record.machine_name) == (record.owner, record.machine_name)
                pod = self.of(other) if same and other is not container else None
                if pod is not None:
                    return pod, other
        return self._pods.get(container.id), container

    def _target(self, ref: str) -> Target:
        other = self._registry.get(ref)
        running = other.running and self.of(other) is not None
        return Target(other.record, status_word(other.state), running, other.restarting)

    async def _check(self, container: Container, pod: Pod, reason: Container) -> None:
        """Conflict or Unsupported when the pod's machine cannot take the container."""
        name = reason.record.name
        if suspended_machine(reason) is not None:
            raise Conflict(f"container {reason.id} is paused: resume its machine first")
        if pci_devices(container.record.host_config):
            raise Conflict(
                f"container {container.record.name} has PCI devices of the host, which a machine gets only at its start, and the "
                f"machine of container {name} runs already"
            )
        if not isinstance(pod.machine, TakesDisks):
            raise Unsupported("this hypervisor cannot add a disk to a running machine")
        if not await GuestContainers(pod.session).supported():
            raise Conflict(
                f"the machine of container {name} was started by an earlier version of vch, whose guest cannot have further containers: "
                f"restart container {name} first"
            )
        self._check_size(container, pod, name)

    def _others(self, container: Container, pod: Pod) -> list[Container]:
        others = (self._found(seat) for seat in pod.seats if seat != container.id)
        return [other for other in others if other is not None]

    def too_small_for(self, container: Container, pod: Pod, host_config: HostConfig) -> str:
        """Why the machine of a container that runs is too small for new limits; "" when it is large enough."""
        others = sum(other.record.host_config.memory >> 20 for other in self._others(container, pod))
        return fits(pod.machine.spec, host_config, others)

    async def set_shares(self, pod: Pod, container: Container, host_config: HostConfig | None = None) -> None:
        """Give the machine the shares of all its containers. `host_config` has the container's new settings."""
        own = host_config or container.record.host_config
        others = [other.record.host_config for other in self._others(container, pod)]
        wanted = resource_shares([own, *others])
        # A new machine has the default shares.
        if isinstance(pod.machine, SetShares) and (others or host_config is not None or wanted != ResourceShares()):
            await pod.machine.set_shares(wanted)

    def _check_size(self, container: Container, pod: Pod, name: str) -> None:
        own = container.record.host_config.memory >> 20
        used = sum(other.record.host_config.memory >> 20 for other in self._others(container, pod))
        size = pod.machine.spec.memory_mib
        if least_memory(used + own) > size:
            raise Conflict(
                f"container {container.record.name} needs {own} MiB, and the machine of container {name} has {size} MiB, of which "
                f"its other containers may use {used}: create container {container.record.name} before container {name} starts, or "
                f"label container {name} vch.machine-memory=SIZE"
            )

    def _check_shares(self, container: Container, pod: Pod, shares: Sequence[Share]) -> None:
        reason = pod.why_not_shared(shares)
        if not reason:
            return
        name, others = container.record.name, ", ".join(other.record.name for other in self._others(container, pod))
        text = f"container {name} needs volumes or paths of the host, which the machine of {others} cannot get while it runs: {reason}"
        if not pod.machine.spec.shares and not pod.machine.spec.grows:
            # See `_expected`.
            text += (
                f". Stop {others} and start it again: a machine that starts when container {name} exists can get them. "
                "Or create both with the label vch.machine=NAME"
            )
        raise Conflict(text)

    # -- what a further container shares --------------------------------------------------------------------------------

    def joining(self, container: Container, pod: Pod, mount_plan: MountPlan) -> Joining:
        """How the container joins a pod in which it has a seat. `mount_plan` has the numbers of its sockets.

        Conflict says what to do when the machine cannot have the folders of the container.
        """
        spec = self._provisioner.spec(container, mount_plan)
        self._check_shares(container, pod, spec.shares)
        nics = [nic for nic in (spec.nic, *spec.more_nics) if nic is not None]
        tmpfs = [volume.name for volume in mount_plan.tmpfs_volumes]
        devices = Devices(spec.disks, len(mount_plan.disks), spec.shares, nics, tmpfs)
        seat = pod.seats[container.id]
        seat.sockets = tuple(socket.number for socket in mount_plan.sockets)
        endpoints = (self.network_target(container) or container).endpoints
        return Joining(pod, seat, devices, self.paths(container, pod), self._shared(container), endpoints)

    def _shared(self, container: Container) -> SharedNamespaces:
        """The ids of the containers whose namespaces a container joins."""
        shared = shared_namespaces(container.record.host_config)
        ids = [self._registry.get(ref).id if ref else "" for ref in (shared.network, shared.pid, shared.ipc)]
        return SharedNamespaces(*ids)

    def network_target(self, container: Container) -> Container | None:
        """The container whose network a container shares, directly or through others.

        None when the container has a network of its own, or when the other container was removed.
        """
        found = None
        while ref := shared_namespaces((found or container).record.host_config).network:
            found = self._found(ref)
            if found is None:
                break
        return found

    def paths(self, container: Container, pod: Pod) -> GuestPaths:
        """The folders in the guest of a container that has a seat in the pod."""
        files = pod.seats.get((self.network_target(container) or container).id) or pod.seats[container.id]
        shm = _shm_of(self._shm_holder(container), pod)
        return GuestPaths(pod.seats[container.id].base, f"{files.base}/files", shm)

    def _shm_holder(self, container: Container) -> Container:
        while (ref := shared_namespaces(container.record.host_config).ipc) and (found := self._found(ref)) is not None:
            container = found
        return container


def _shm_of(container: Container, pod: Pod) -> str:
    """The path in the guest of the /dev/shm of a container that shares it; "" when the container shares none."""
    if container.record.host_config.ipc_mode != "shareable" or container.id not in pod.seats:
        return ""
    return f"{pod.seats[container.id].base}/shm"
