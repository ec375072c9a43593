"""The devices of a machine that change while it runs: NICs, disks and shares. `machine` has the machine itself."""

from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Disk, Forward, GuestDisk, Machine, Nic, Share
from appliance.hypervisor.more_disks import find_disks, used_places, with_disks, without_first_disks, without_places
from appliance.hypervisor.qemu import hotplug, nics
from appliance.hypervisor.qemu.command import (
    MOST_MORE_DISKS,
    MOST_MORE_NICS,
    MOST_MORE_SHARES,
    DiskPlace,
    nics_of,
    share_tag,
)
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.slots import luns_of

_UNPLUG_SECONDS = 10.0


class LiveDevices(Machine):
    """A machine that is Pluggable, TakesDisks and TakesShares.

    Each change is recorded before QEMU gets a device and after QEMU has lost a device, so that a restarted appliance never takes a
    place that is used for a free place.
    """

    folder: Path
    slotted: bool

    @abstractmethod
    def open_monitor(self) -> AbstractAsyncContextManager[Monitor]:
        """A connection to QEMU's monitor."""

    @abstractmethod
    def save_record(self) -> None:
        """Write machine.json."""

    @abstractmethod
    def why_no_shares(self) -> str:
        """Why this host cannot share folders; "" when it can."""

    # -- NICs -----------------------------------------------------------------------------------------------------

    async def plug_nic(self, nic: Nic) -> None:
        """See Pluggable."""
        more = list(self.spec.more_nics)
        if None not in more:
            more.append(None)
        place = more.index(None)
        if place >= MOST_MORE_NICS:
            raise HypervisorError(f"machine {self.id[:12]} has {MOST_MORE_NICS + 1} NICs, which is the maximum")
        before = len(self.spec.more_nics)
        more[place] = nic
        self._set_more_nics(more)
        try:
            async with self.open_monitor() as monitor:
                await nics.plug(monitor, place + 1, nic)
        except BaseException:
            # Another NIC may have got another slot meanwhile.
            more = list(self.spec.more_nics)
            more[place] = None
            while len(more) > before and more[-1] is None:
                more.pop()
            self._set_more_nics(more)
            raise

    async def unplug_nic(self, mac: str) -> None:
        """See Pluggable."""
        place = next((place for place, nic in nics_of(self.spec) if nic.mac == mac), None)
        if place is None:
            raise HypervisorError(f"machine {self.id[:12]} has no NIC {mac}")
        device = f"card{place}"
        async with self.open_monitor() as monitor:
            await monitor.execute("device_del", {"id": device})
            with trio.move_on_after(_UNPLUG_SECONDS) as patience:
                await monitor.wait_event("DEVICE_DELETED", device)
            if patience.cancelled_caught:
                raise HypervisorError(f"the guest does not release its NIC {mac}")
            await monitor.execute("netdev_del", {"id": f"net{place}"})
        if place:
            more = list(self.spec.more_nics)
            more[place - 1] = None
            self._set_more_nics(more)
        else:
            self.spec = replace(self.spec, nic=None)
            self.save_record()

    async def set_forwards(self, mac: str, forwards: tuple[Forward, ...]) -> None:
        """See Pluggable."""
        place, nic = next(((place, nic) for place, nic in nics_of(self.spec) if nic.mac == mac), (0, None))
        if nic is None or nic.bridge:
            raise HypervisorError(f"machine {self.id[:12]} has no NIC {mac} that forwards")
        async with self.open_monitor() as monitor:
            await nics.set_forwards(monitor, place, nic.forwards, forwards)
        changed = [self.spec.nic, *self.spec.more_nics]
        changed[place] = replace(nic, forwards=forwards)
        self.spec = replace(self.spec, nic=changed[0])
        self._set_more_nics(changed[1:])

    def _set_more_nics(self, more: Iterable[Nic | None]) -> None:
        self.spec = replace(self.spec, more_nics=tuple(more))
        self.save_record()

    # -- disks ----------------------------------------------------------------------------------------------------

    def free_disks(self) -> int:
        """See TakesDisks."""
        return MOST_MORE_DISKS - used_places(self.spec)

    async def plug_disks(self, disks: Sequence[Disk]) -> list[GuestDisk]:
        """See TakesDisks."""
        self.spec, indices = with_disks(self.spec, disks, MOST_MORE_DISKS)
        self.save_record()
        places = [DiskPlace(index, later=True) for index in indices]
        try:
            async with self.open_monitor() as monitor:
                for place, disk in zip(places, disks, strict=True):
                    await hotplug.plug_disk(monitor, place, disk)
        except BaseException as error:
            # After a cancellation a command may be half done, so the devices are removed through another connection. If that fails,
            # their places stay used.
            with trio.move_on_after(_UNPLUG_SECONDS, shield=True), suppress(HypervisorError):
                await self._unplug_disks(indices)
            if isinstance(error, OSError):
                raise HypervisorError(f"the disks cannot be plugged in: {error}") from error
            raise
        return [GuestDisk(place.address) for place in places]

    def plugged_disks(self) -> dict[Path, GuestDisk]:
        """See TakesDisks."""
        places = enumerate(self.spec.more_disks)
        return {
            disk.path: GuestDisk(DiskPlace(index, later=True).address) for index, disk in places if disk is not None
        }

    async def release_disks(self, paths: Collection[Path]) -> None:
        """See TakesDisks. A disk that the machine started with leaves an empty disk behind, which the guest does not notice."""
        first, more = find_disks(self.spec, paths)
        if first:
            luns = luns_of(self.spec.disks, slotted=self.slotted)
            async with self.open_monitor() as monitor:
                for index in first:
                    place, disk = DiskPlace(luns[index]), self.spec.disks[index]
                    await hotplug.empty_place(monitor, place, disk, slotted=self.slotted)
            self.spec = without_first_disks(self.spec, first)
            self.save_record()
        if more:
            await self._unplug_disks(more)

    async def _unplug_disks(self, indices: Collection[int]) -> None:
        async with self.open_monitor() as monitor:
            await hotplug.unplug_disks(monitor, [DiskPlace(index, later=True) for index in indices])
        self.spec = without_places(self.spec, indices)
        self.save_record()

    # -- shares ---------------------------------------------------------------------------------------------------

    def why_no_more_shares(self) -> str:
        """See TakesShares."""
        if not self.spec.shares and not self.spec.grows:
            return "the memory of the machine is not shared with the host"
        if len(self.spec.more_shares) >= MOST_MORE_SHARES:
            return f"shares were added to the machine {MOST_MORE_SHARES} times, which is the maximum"
        return self.why_no_shares()

    async def plug_shares(self, shares: tuple[Share, ...]) -> str:
        """See TakesShares."""
        if reason := self.why_no_more_shares():
            raise HypervisorError(reason)
        number = len(self.spec.more_shares) + 1
        self._set_more_shares((*self.spec.more_shares, shares))
        try:
            async with self.open_monitor() as monitor:
                await hotplug.plug_shares(monitor, self.folder, shares, number)
        except HypervisorError:
            # QEMU has no device then. After a cancellation it may have one, and the number stays used.
            if len(self.spec.more_shares) == number:
                self._set_more_shares(self.spec.more_shares[:-1])
            raise
        return share_tag(number)

    def _set_more_shares(self, more: tuple[tuple[Share, ...], ...]) -> None:
        self.spec = replace(self.spec, more_shares=more)
        self.save_record()
