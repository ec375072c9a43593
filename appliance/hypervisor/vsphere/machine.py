"""A VM on vSphere: the calls that change it, and the state that vSphere reports."""

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio
from pyVmomi import vim

from appliance.errors import HypervisorError
from appliance.hypervisor.capabilities import PlacementState, ResourceShares
from appliance.hypervisor.driver import (
    Disk,
    Forward,
    GuestDisk,
    Machine,
    MachineSpec,
    Nic,
    Power,
    Usage,
)
from appliance.hypervisor.more_disks import find_disks, used_places, with_disks, without_first_disks, without_places
from appliance.hypervisor.vsphere.changes import Changes
from appliance.hypervisor.vsphere.collector import MachineSnapshot
from appliance.hypervisor.vsphere.disks import DatastoreDisks
from appliance.hypervisor.vsphere.faults import Gone, WrongState
from appliance.hypervisor.vsphere.inventory import Inventory
from appliance.hypervisor.vsphere.lookup import FoundMachine
from appliance.hypervisor.vsphere.more_disks import (
    address_of_place,
    disk_at,
    most_places,
    plugging_disks,
    releasing_disks,
    vm_disks,
    writable,
)
from appliance.hypervisor.vsphere.serial_port import SerialPort
from appliance.hypervisor.vsphere.session import Properties, Session
from appliance.hypervisor.vsphere.spec import (
    address_of,
    nic_device,
    plugging,
    share_change,
    unplugging,
    with_nic,
    without_nic,
)
from appliance.hypervisor.vsphere.stacks import slots_of
from tether.transport import Line

# vSphere does not report a state that was undone soon after. The state is read after this many seconds without a report.
_SILENT_SECONDS = 10.0


class Owner(Protocol):
    """The driver, as far as its machines need it."""

    session: Session
    inventory: Inventory
    changes: Changes
    disks: DatastoreDisks

    async def turn_into(self, machine: "VsphereMachine", spec: MachineSpec) -> None: ...
    async def detach_kept_disks(self, reference: vim.VirtualMachine) -> None: ...
    def forget(self, machine: "VsphereMachine") -> None: ...


class VsphereMachine(Machine):
    """A VM. `snapshot` is the state that vSphere last reported; None once the VM is gone."""

    unmatched_nics = 0

    def __init__(self, driver: Owner, found: FoundMachine, port: SerialPort, snapshot: MachineSnapshot | None) -> None:
        self.id = found.spec.id
        self.spec = found.spec
        self.reference = found.reference
        self.port = port
        self.snapshot = snapshot
        self._driver = driver
        self._changed = trio.Event()
        self._gone = False
        # Each change of devices records the spec that follows it, so that one change at a time is made.
        self._device_turn = trio.Lock()

    def notify(self, snapshot: MachineSnapshot | None) -> None:
        """Take over a state that vSphere reports."""
        self.snapshot = snapshot
        self._gone = snapshot is None
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def serial(self) -> str:
        """The URI of the VM's serial port."""
        return self.port.key.uri

    # -- power ----------------------------------------------------------------------------------------------------

    @property
    def _on(self) -> bool:
        return self.snapshot is not None and self.snapshot.on

    async def _wait(self, *, on: bool) -> None:
        while self._on != on and not self._gone:
            await self._changed.wait()

    async def _wait_reported(self, power: Power) -> None:
        """Wait until vSphere reports a power state that was set, or until the VM is found in the other state."""
        patience = _SILENT_SECONDS
        while self._on != (power is Power.ON) and not self._gone:
            with trio.move_on_after(patience):
                await self._wait(on=power is Power.ON)
                return
            patience *= 2
            try:
                if not await self._is(power):
                    return
            except Gone:
                return

    async def wait_powered_on(self) -> None:
        """Wait until vSphere reports that the VM is on."""
        await self._wait_reported(Power.ON)

    async def start(self) -> None:
        await self._change("power on", self.reference.PowerOn, lambda: self._is(Power.ON))
        # A report of the state before must not be taken for the state after.
        await self.wait_powered_on()

    async def kill(self) -> None:
        if not self._on:
            return
        try:
            await self._change("power off", self.reference.PowerOff, lambda: self._is(Power.OFF))
        except Gone:
            return
        await self._wait_reported(Power.OFF)

    async def wait_off(self) -> None:
        await self._wait(on=False)

    async def destroy(self) -> None:
        while not self._gone:
            await self.kill()
            try:
                if writable(self.spec):
                    # vSphere destroys a VM's disks with the VM. Writable disks stay, so they are detached first.
                    await self._driver.detach_kept_disks(self.reference)
                await self._change("destroy", self.reference.Destroy, self._is_gone)
                break
            except Gone:
                break
            except WrongState:
                continue  # an operator has powered the VM on
        self._driver.forget(self)

    async def power(self) -> Power:
        return Power.ON if self._on else Power.OFF

    async def _power_state(self) -> str:
        """Read now, not the last report."""
        return str(await self._driver.session.look("power", self.reference, "runtime.powerState"))

    async def _is(self, power: Power) -> bool:
        return (await self._power_state() != "poweredOff") == (power is Power.ON)

    async def _is_gone(self) -> bool:
        try:
            await self._driver.session.look("name", self.reference, "name")
        except Gone:
            return True
        return False

    async def _change(self, what: str, method: Callable[..., object], done: Callable[[], Awaitable[bool]]) -> None:
        await self._driver.changes.make(f"{what} {self.id[:12]}", method, done)

    # -- use ------------------------------------------------------------------------------------------------------

    async def dial_tether(self) -> Line:
        if not self._on:
            raise HypervisorError(f"machine {self.id[:12]} is off")
        return self.port.dial()

    def guest_disks(self) -> list[GuestDisk]:
        slots = slots_of(self.spec.disks)
        return [
            GuestDisk(replace(address_of(slot.disk), partition=slot.partition), blank=not disk.read_only)
            for slot, disk in zip(slots, self.spec.disks, strict=True)
        ]

    async def usage(self) -> Usage:
        if not self._on:
            return Usage(0, 0)
        used = await self._driver.session.look("usage", self.reference, "summary.quickStats.hostMemoryUsage")
        # vSphere counts MHz at this moment, not nanoseconds since power-on. The guest's own statistics have the CPU time.
        return Usage(0, int(used or 0) << 20)

    def last_words(self) -> str:
        return ""

    async def set_shares(self, shares: ResourceShares) -> None:
        """See SetShares."""
        change: Any = share_change(self.spec, shares)

        async def done() -> bool:
            paths = ["config.cpuAllocation", "config.memoryAllocation"]
            found = await self._driver.session.properties("shares", [self.reference], paths)
            properties = found.get(self.reference._moId, Properties())
            cpu, memory = (properties.get(path) for path in paths)
            if cpu is None or memory is None:
                return False
            wanted = change.cpuAllocation.shares
            level = cpu.shares.level == wanted.level and (
                wanted.level != "custom" or cpu.shares.shares == wanted.shares
            )
            return bool(level and memory.reservation == change.memoryAllocation.reservation)

        await self._change("set the shares of", partial(self.reference.ReconfigVM_Task, change), done)

    # -- a machine of the pool ------------------------------------------------------------------------------------

    def in_background(self, background: bool) -> None:
        """See Adaptable. A waiting VM is idle, and the host shares its CPUs by weight: there is nothing to set."""

    async def become(self, spec: MachineSpec) -> None:
        """See Adaptable."""
        await self._driver.turn_into(self, spec)

    # -- changes by operators -------------------------------------------------------------------------------------

    @property
    def placement(self) -> PlacementState:
        """See Suspendable."""
        snapshot = self.snapshot
        if snapshot is None:
            return PlacementState()
        return PlacementState(snapshot.name, snapshot.host, snapshot.suspended)

    async def wait_changed(self, than: PlacementState) -> PlacementState:
        """See Suspendable."""
        while (now := self.placement) == than:
            await self._changed.wait()
        return now

    async def host_name(self, host: str) -> str:
        """See Suspendable."""
        session = self._driver.session
        try:
            return str(await session.look("host", vim.HostSystem(host, session.stub), "name") or "")
        except HypervisorError:
            return ""

    async def suspend(self) -> None:
        """See Suspendable."""

        async def done() -> bool:
            return await self._power_state() == "suspended"

        await self._change("suspend", self.reference.Suspend, done)
        await self._wait_suspended(True)

    async def resume(self) -> None:
        """See Suspendable."""
        if await self._power_state() != "suspended":
            return

        async def done() -> bool:
            return await self._power_state() == "poweredOn"

        await self._change("resume", self.reference.PowerOn, done)
        await self._wait_suspended(False)

    async def _wait_suspended(self, suspended: bool) -> None:
        # With a limit: vSphere does not report a state that was undone soon after.
        with trio.move_on_after(_SILENT_SECONDS):
            while self.placement.suspended != suspended and not self._gone:
                await self._changed.wait()

    # -- NICs -----------------------------------------------------------------------------------------------------

    async def plug_nic(self, nic: Nic) -> None:
        """See Pluggable."""
        async with self._device_turn:
            spec = with_nic(self.spec, nic)
            change = plugging(spec, self.serial, nic, self._driver.inventory.backing_of(nic))

            async def there() -> bool:
                return nic_device(await self._devices(), nic.mac) is not None

            await self._reconfigure("plug a NIC into", change, there, spec)

    async def unplug_nic(self, mac: str) -> None:
        """See Pluggable."""
        async with self._device_turn:
            spec = without_nic(self.spec, mac)
            device = nic_device(await self._devices(), mac)
            if device is None:
                # An operator has removed the NIC.
                self.spec = spec
                return

            async def gone() -> bool:
                return nic_device(await self._devices(), mac) is None

            await self._reconfigure("take a NIC from", unplugging(spec, self.serial, device), gone, spec)

    async def set_forwards(self, mac: str, forwards: tuple[Forward, ...]) -> None:
        """See Pluggable."""
        if forwards:
            raise HypervisorError("ESXi hosts forward no ports")

    # -- disks ----------------------------------------------------------------------------------------------------

    def free_disks(self) -> int:
        """See TakesDisks."""
        return most_places(self.spec) - used_places(self.spec)

    async def plug_disks(self, disks: Sequence[Disk]) -> list[GuestDisk]:
        """See TakesDisks."""
        # Refused before layers are uploaded, and again when the places are taken.
        with_disks(self.spec, disks, most_places(self.spec))
        placed = await self._driver.disks.place_each(disks)
        async with self._device_turn:
            spec, places = with_disks(self.spec, disks, most_places(self.spec))
            addresses = [address_of_place(spec, place) for place in places]
            change = plugging_disks(spec, self.serial, places, placed)

            async def there() -> bool:
                devices = await self._devices()
                return all(disk_at(devices, address) is not None for address in addresses)

            await self._reconfigure("plug disks into", change, there, spec)
        return [GuestDisk(address, blank=not disk.read_only) for address, disk in zip(addresses, disks, strict=True)]

    def plugged_disks(self) -> dict[Path, GuestDisk]:
        """See TakesDisks."""
        places = enumerate(self.spec.more_disks)
        return {disk.path: GuestDisk(address_of_place(self.spec, place)) for place, disk in places if disk is not None}

    async def release_disks(self, paths: Collection[Path]) -> None:
        """See TakesDisks."""
        async with self._device_turn:
            first, more = find_disks(self.spec, paths)
            if not first and not more:
                return
            disks = vm_disks(self.spec, first, more)
            spec = without_places(without_first_disks(self.spec, first), more)
            change = releasing_disks(spec, self.serial, await self._devices(), disks)

            async def gone() -> bool:
                devices = await self._devices()
                return all(disk_at(devices, disk.address) is None for disk in disks)

            await self._reconfigure("take disks from", change, gone, spec)

    async def _devices(self) -> Sequence[vim.vm.device.VirtualDevice]:
        return await self._driver.session.look("devices", self.reference, "config.hardware.device") or ()

    async def _reconfigure(
        self, what: str, change: vim.vm.ConfigSpec, done: Callable[[], Awaitable[bool]], spec: MachineSpec
    ) -> None:
        await self._change(what, partial(self.reference.ReconfigVM_Task, change), done)
        self.spec = spec
