"""A pod: one machine, the session with its guest, and the containers in the machine."""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.container.container_record import SeatRecord
from appliance.container.guest_paths import GuestPaths, folder_of
from appliance.engine.model.layout import Layout, disk_targets, share_target, tmpfs_targets
from appliance.errors import Conflict, HypervisorError, Unsupported, VchError
from appliance.guest import GuestContainers, GuestSession
from appliance.hypervisor import (
    SHARE_TAG,
    Disk,
    GuestDisk,
    Machine,
    Nic,
    Pluggable,
    Share,
    TakesDisks,
    TakesShares,
)

log = logging.getLogger(__name__)

_REMOVE_SECONDS = 30.0
_PAUSE, _MOST_PAUSE = 0.2, 5.0
# Sockets of the containers of one machine have different numbers.
_SOCKETS_OF_SEAT = 1024


@dataclass(frozen=True, slots=True)
class Devices:
    """What a container brings into a running machine. `disks`: its own disk, its layers (lowest first), `volumes` volumes.

    `tmpfs`: the names of its tmpfs volumes.
    """

    disks: Sequence[Disk]
    volumes: int
    shares: tuple[Share, ...] = ()
    nics: Sequence[Nic] = ()
    tmpfs: Sequence[str] = ()


@dataclass(slots=True)
class Seat:
    """The place of one container in a pod. `number` is unique in the pod.

    `first`: the machine was made for this container, whose folder in the guest is the tether's own. `disks`: where the guest has
    mounted each of the container's disks. `tmpfs`: where it has mounted its tmpfs volumes, by name. `sockets`: the numbers of its
    sockets. `leaving`: the container has ended.
    """

    container_id: str
    number: int
    first: bool
    disks: dict[Path, str] = field(default_factory=dict)
    tmpfs: dict[str, str] = field(default_factory=dict)
    sockets: tuple[int, ...] = ()
    leaving: bool = False

    @property
    def base(self) -> str:
        """The container's folder in the guest."""
        return folder_of(self.container_id, first=self.first)

    @property
    def first_socket(self) -> int:
        """The number of the container's first socket."""
        return self.number * _SOCKETS_OF_SEAT

    def record(self, machine: str) -> SeatRecord:
        """What is stored of the seat in this machine."""
        return SeatRecord(machine, self.number, self.first)

    @property
    def network(self) -> str:
        """How calls name the container's network namespace and files: "" for the first container."""
        return "" if self.first else self.container_id


class Pod:
    """A machine and the containers in it. The machine ends with the last container.

    `off` is set when the machine is off, whatever the reason; `gone` when the machine is destroyed. `ending`: the last container
    has left, so no container can join any more. `was_shared`: more than one container has been in the machine.
    """

    def __init__(self, machine: Machine, session: GuestSession) -> None:
        self.machine = machine
        self.session = session
        self.seats: dict[str, Seat] = {}
        self.ending = False
        self.was_shared = False
        self.off = trio.Event()
        self.gone = trio.Event()
        # Serializes changes of what the guest has mounted.
        self._lock = trio.Lock()
        # Containers that end together find each other gone, and the first of them destroys the machine.
        self._end_lock = trio.Lock()

    @property
    def shared(self) -> bool:
        """Whether more than one container is in the machine."""
        return len(self.seats) > 1

    async def run(self) -> None:
        """Carry the session, and watch the machine's power, until the machine is destroyed. A cancellation leaves the machine on."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_power)
                # The session of a machine from the pool runs already.
                if not self.session.began:
                    nursery.start_soon(self.session.run)
                await self.gone.wait()
                nursery.cancel_scope.cancel()
        except Exception:
            log.exception("machine %s is powered off, because its session or its driver failed", self.machine.id[:12])
            await self.fail()
        finally:
            self.session.close()

    async def _watch_power(self) -> None:
        await self.machine.wait_off()
        self.off.set()

    # -- joining ------------------------------------------------------------------------------------------------------

    def sit(self, container_id: str, *, first: bool) -> Seat:
        """Take a seat for a container, which keeps the machine until `leave`. Conflict when the last container has left."""
        number = 0 if first else 1 + max((seat.number for seat in self.seats.values()), default=0)
        return self.take_seat(Seat(container_id, number, first))

    def take_seat(self, seat: Seat) -> Seat:
        """Take this seat. Conflict when the last container has left."""
        if self.ending:
            raise Conflict(f"machine {self.machine.id[:12]} is ending")
        self.seats[seat.container_id] = seat
        self.was_shared |= self.shared
        return seat

    def note_mounts(self, seat: Seat, disks: Sequence[Disk], volumes: int, tmpfs: Iterable[str] = ()) -> None:
        """Record where the guest has a container's disks and tmpfs volumes, in the order of `Devices`."""
        seat.disks = dict(zip((disk.path for disk in disks), _targets(seat, disks, volumes), strict=True))
        seat.tmpfs = tmpfs_targets(seat.base, tmpfs)

    @asynccontextmanager
    async def furnished(self, seat: Seat, devices: Devices, paths: GuestPaths) -> AsyncIterator[Layout]:
        """Give the machine a further container's devices. The caller adds the container to the guest within the block.

        No other container leaves meanwhile, because the layout may name disks that it has mounted. After an error, `leave` takes back
        what the machine has got. HypervisorError when the machine has no place for a device, Unsupported when it takes none.
        """
        async with self._lock:
            yield await self._furnish(seat, devices, paths)

    async def _furnish(self, seat: Seat, devices: Devices, paths: GuestPaths) -> Layout:
        machine = self.machine
        if not isinstance(machine, TakesDisks):
            raise Unsupported("this hypervisor cannot add a disk to a running machine")
        others = [other for other in self.seats.values() if other is not seat and not other.leaving]
        mounted = {path: target for other in others for path, target in other.disks.items()}
        in_memory = {name: target for other in others for name, target in other.tmpfs.items()}
        missing = [disk for disk in devices.disks if disk.path not in mounted]
        # Before the devices are there, so that `leave` finds them all.
        self.note_mounts(seat, devices.disks, devices.volumes, devices.tmpfs)
        places: dict[Path, GuestDisk | str] = {**mounted}
        found = await machine.plug_disks(missing)
        places.update(zip((disk.path for disk in missing), found, strict=True))
        share_paths, tag = await self._share(devices.shares)
        for nic in devices.nics:
            if not isinstance(machine, Pluggable):
                raise Unsupported("this hypervisor cannot add a NIC to a running machine")
            await machine.plug_nic(nic)
        return Layout(tuple(places[disk.path] for disk in devices.disks), paths, share_paths, tag, in_memory)

    async def _share(self, shares: Sequence[Share]) -> tuple[tuple[str, ...], str]:
        """(The path of each share in the guest, the tag of the device that is new; "" when the machine has all the shares.)

        A share that the machine has is used again: in another mount its files would have other inodes, by which the kernel finds the
        sockets in them.
        """
        machine, paths, tag = self.machine, self._present(shares), ""
        missing = tuple(share for share in shares if share not in paths)
        if missing:
            if not isinstance(machine, TakesShares):
                raise Unsupported("this hypervisor cannot share a folder with a running machine")
            tag = await machine.plug_shares(missing)
            paths |= {share: f"{share_target(tag)}/{index}" for index, share in enumerate(missing)}
        return tuple(paths[share] for share in shares), tag

    def _present(self, shares: Sequence[Share]) -> dict[Share, str]:
        """The shares that the machine has, each with its path in the guest."""
        spec = self.machine.spec
        have = [(SHARE_TAG, spec.shares)]
        have += [(f"{SHARE_TAG}{number}", more) for number, more in enumerate(spec.more_shares, 1)]
        return {
            share: f"{share_target(tag)}/{index}"
            for share in shares
            for tag, present in have
            for index, one in enumerate(present)
            if _serves(one, share)
        }

    def why_not_shared(self, shares: Sequence[Share]) -> str:
        """Why the machine can have none of the shares that it lacks; "" when it has all of them, or can have them."""
        if not isinstance(self.machine, TakesShares) or len(self._present(shares)) == len(set(shares)):
            return ""
        return self.machine.why_no_more_shares()

    # -- leaving ------------------------------------------------------------------------------------------------------

    async def leave(self, container_id: str, *, clean: bool) -> None:
        """Give up a container's seat. Returns when no machine has the container's disks; no effect without a seat.

        `clean`: the guest unmounts the container's disks, which takes a moment; only disks that are used again need it.
        """
        seat = self.seats.get(container_id)
        if seat is None:
            return
        seat.leaving = True
        if all(other.leaving for other in self.seats.values()):
            await self._end(clean=clean)
        else:
            await self._vacate(seat)
            if self.off.is_set():
                # The other containers end, too, and the last one destroys the machine.
                await self.gone.wait()
        # Now, so that a `leave` that was cancelled can be repeated.
        del self.seats[container_id]

    async def _end(self, *, clean: bool) -> None:
        self.ending = True
        async with self._end_lock:
            if self.gone.is_set():
                return
            if clean and not self.off.is_set():
                await self._shut_down()
            self.session.close()
            await self.machine.destroy()
            self.gone.set()

    async def _shut_down(self) -> None:
        """Let the guest unmount its disks. Returns also when the machine ends before the answer."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self.off.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await self.session.shut_down()
            nursery.cancel_scope.cancel()

    async def _vacate(self, seat: Seat) -> None:
        """Take a container out of a machine that runs on. Returns when that is done, or the machine is off."""
        pause = _PAUSE
        while not self.off.is_set():
            if self.session.closed:
                await self.fail()
                return
            async with self._lock:
                if await self._removed(seat):
                    seat.disks, seat.tmpfs = {}, {}
                    return
            with trio.move_on_after(pause):
                await self.off.wait()
            pause = min(_MOST_PAUSE, pause * 2)

    async def _removed(self, seat: Seat) -> bool:
        """Remove the container from the guest and its disks from the machine; False when that has to be tried again."""
        if not seat.disks:
            # The guest knows nothing of the container.
            return True
        others = [other for other in self.seats.values() if other is not seat]
        free = seat.disks.keys() - {path for other in others for path in other.disks}
        places = self._guest_disks()
        try:
            if not await GuestContainers(self.session).remove(
                seat.container_id, [places[path] for path in free if path in places], seat.sockets, _REMOVE_SECONDS
            ):
                log.info("container %s: another container uses its files", seat.container_id[:12])
                return False
            if isinstance(self.machine, TakesDisks):
                await self.machine.release_disks(free)
        except VchError as error:
            log.warning("container %s stays in its machine for now: %s", seat.container_id[:12], error)
            return False
        return True

    def _guest_disks(self) -> dict[Path, GuestDisk]:
        spec = self.machine.spec
        first = zip((disk.path for disk in spec.disks), self.machine.guest_disks(), strict=True)
        plugged = self.machine.plugged_disks() if isinstance(self.machine, TakesDisks) else {}
        return {**dict(first), **plugged}

    async def disconnect(self, macs: Sequence[str]) -> None:
        """Remove NICs of a container that leaves, so that their addresses can be used again. A NIC that stays is logged."""
        if not isinstance(self.machine, Pluggable) or self.off.is_set():
            return
        spec = self.machine.spec
        present = {nic.mac for nic in (spec.nic, *spec.more_nics) if nic is not None}
        for mac in present.intersection(macs):
            try:
                await self.machine.unplug_nic(mac)
            except HypervisorError as error:
                log.warning("machine %s: a NIC was not removed: %s", self.machine.id[:12], error)

    async def fail(self) -> None:
        """Power off the machine, because its guest cannot be reached: all its containers end."""
        await self.machine.kill()
        self.off.set()


def _serves(present: Share, wanted: Share) -> bool:
    """Whether a share that a machine has shows the same files; a mount makes a writable share read-only."""
    same = (present.path, present.part, present.recursive) == (wanted.path, wanted.part, wanted.recursive)
    return same and (wanted.read_only or not present.read_only)


def _targets(seat: Seat, disks: Sequence[Disk], volumes: int) -> list[str]:
    return disk_targets(seat.base, len(disks) - volumes - 1, volumes)
