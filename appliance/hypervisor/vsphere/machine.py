"""A machine on vSphere: what is asked of it, and what vSphere tells of it."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from pyVmomi import vim

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import (
    Forward,
    GuestDisk,
    Machine,
    MachineSpec,
    Nic,
    PlacementState,
    Power,
    ResourceShares,
    Usage,
)
from appliance.hypervisor.vsphere.collector import Seen
from appliance.hypervisor.vsphere.concentrator import Port
from appliance.hypervisor.vsphere.faults import Gone, WrongState
from appliance.hypervisor.vsphere.spec import (
    address_of,
    card_of,
    plugging,
    unplugging,
    weighing,
    with_card,
    without_card,
)
from appliance.hypervisor.vsphere.stacks import slots_of
from tether.transport import Line

if TYPE_CHECKING:
    from appliance.hypervisor.vsphere.driver import VsphereDriver

_UNDONE_SECONDS = 10.0
_SUSPENDED = "suspended"


class VsphereMachine(Machine):
    """A virtual machine. `seen` is what vSphere last told of it; None once it is gone."""

    unmatched_nics = 0

    def __init__(self, driver: "VsphereDriver", spec: MachineSpec, reference: Any, port: Port) -> None:
        self.id = spec.id
        self.spec = spec
        self._driver = driver
        self.reference = reference
        self._port = port
        self.seen: Seen | None = driver.seen(reference)
        self._changed = trio.Event()
        self._gone = False

    def tell(self, seen: Seen | None) -> None:
        """vSphere has told something new."""
        self.seen = seen
        self._gone = seen is None
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    @property
    def _on(self) -> bool:
        return self.seen is not None and self.seen.on

    async def _wait(self, *, on: bool) -> None:
        while self._on != on and not self._gone:
            await self._changed.wait()

    async def _told(self, power: Power) -> None:
        """Wait until vSphere has told of a change that was made, or that it is undone: what is soon undone is never told."""
        patience = _UNDONE_SECONDS
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

    @property
    def serial(self) -> str:
        """The URI of its serial port."""
        return self._port.key.uri

    async def told_on(self) -> None:
        """Wait until vSphere has told that it is on."""
        await self._told(Power.ON)

    def in_background(self, background: bool) -> None:
        """See Adaptable: until it is somebody's it does nothing, and its host shares by weight."""

    async def become(self, spec: MachineSpec) -> None:
        """See Adaptable."""
        await self._driver.turn_into(self, spec)

    async def start(self) -> None:
        await self._driver.change(f"power on {self.id[:12]}", self.reference.PowerOn, lambda: self._is(Power.ON))
        # What was told before is not to be taken for what comes after.
        await self._told(Power.ON)

    async def kill(self) -> None:
        if not self._on:
            return
        try:
            await self._driver.change(f"power off {self.id[:12]}", self.reference.PowerOff, lambda: self._is(Power.OFF))
        except Gone:
            return
        await self._told(Power.OFF)

    async def wait_off(self) -> None:
        await self._wait(on=False)

    async def destroy(self) -> None:
        while not self._gone:
            await self.kill()
            try:
                if any(not disk.read_only for disk in self.spec.disks):
                    # With a machine go the disks that it has, and these are to stay.
                    await self._driver.take_disks_from(self.reference)
                await self._driver.change(f"destroy {self.id[:12]}", self.reference.Destroy, self._is_gone)
                break
            except Gone:
                break
            except WrongState:
                continue  # somebody has powered it on
        self._driver.forget(self)

    async def power(self) -> Power:
        return Power.ON if self._on else Power.OFF

    async def _is(self, power: Power) -> bool:
        """Asked, not remembered."""
        return (await self._power_state() != "poweredOff") == (power is Power.ON)

    async def _is_gone(self) -> bool:
        try:
            await self._driver.session.look("name", self.reference, "name")
        except Gone:
            return True
        return False

    async def dial_tether(self) -> Line:
        if not self._on:
            raise HypervisorError(f"machine {self.id[:12]} is off")
        return self._port.dial()

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
        # MHz of now, not nanoseconds so far, is what vSphere counts: the guest's own figures are those that count.
        return Usage(0, int(used or 0) << 20)

    async def set_shares(self, weight: ResourceShares) -> None:
        """See Weighable."""
        change: Any = weighing(self.spec, weight)

        async def done() -> bool:
            paths = ["config.cpuAllocation", "config.memoryAllocation"]
            found = await self._driver.session.properties("weight", [self.reference], paths)
            cpu, memory = (found.get(self.reference._moId, {}).get(path) for path in paths)
            if cpu is None or memory is None:
                return False
            wanted = change.cpuAllocation.shares
            level = cpu.shares.level == wanted.level and (
                wanted.level != "custom" or cpu.shares.shares == wanted.shares
            )
            return bool(level and memory.reservation == change.memoryAllocation.reservation)

        await self._driver.change(f"weigh {self.id[:12]}", partial(self.reference.ReconfigVM_Task, change), done)

    # -- what others do -------------------------------------------------------------------------------------------

    @property
    def placement(self) -> PlacementState:
        """See Suspendable."""
        facts = self.seen.facts if self.seen is not None else {}
        host = facts.get("runtime.host")
        return PlacementState(
            str(facts.get("name") or ""),
            host._moId if host is not None else "",
            facts.get("runtime.powerState") == _SUSPENDED,
        )

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
            return await self._power_state() == _SUSPENDED

        await self._driver.change(f"suspend {self.id[:12]}", self.reference.Suspend, done)
        await self._told_suspended(True)

    async def resume(self) -> None:
        """See Suspendable."""
        if await self._power_state() != _SUSPENDED:
            return

        async def done() -> bool:
            return await self._power_state() == "poweredOn"

        await self._driver.change(f"resume {self.id[:12]}", self.reference.PowerOn, done)
        await self._told_suspended(False)

    async def _power_state(self) -> str:
        """Asked, not remembered."""
        return str(await self._driver.session.look("power", self.reference, "runtime.powerState"))

    async def _told_suspended(self, suspended: bool) -> None:
        # What is soon undone is never told.
        with trio.move_on_after(_UNDONE_SECONDS):
            while self.placement.suspended != suspended and not self._gone:
                await self._changed.wait()

    # -- NICs ----------------------------------------------------------------------------------------------------

    async def plug_nic(self, nic: Nic) -> None:
        """See Pluggable."""
        spec = with_card(self.spec, nic)
        change = plugging(spec, self.serial, nic, self._driver.inventory.backing_of(nic))

        async def there() -> bool:
            return card_of(await self._devices(), nic.mac) is not None

        await self._reconfigure("plug a NIC into", change, there, spec)

    async def unplug_nic(self, mac: str) -> None:
        """See Pluggable."""
        spec = without_card(self.spec, mac)
        device = card_of(await self._devices(), mac)
        if device is None:
            # Somebody has taken it away.
            self.spec = spec
            return

        async def gone() -> bool:
            return card_of(await self._devices(), mac) is None

        await self._reconfigure("take a NIC from", unplugging(spec, self.serial, device), gone, spec)

    async def set_forwards(self, mac: str, forwards: tuple[Forward, ...]) -> None:
        """See Pluggable."""
        if forwards:
            raise HypervisorError("vSphere's hosts forward no ports")

    async def _devices(self) -> Sequence[Any]:
        return await self._driver.session.look("cards", self.reference, "config.hardware.device") or ()

    async def _reconfigure(
        self, what: str, change: Any, done: Callable[[], Awaitable[bool]], spec: MachineSpec
    ) -> None:
        await self._driver.change(f"{what} {self.id[:12]}", partial(self.reference.ReconfigVM_Task, change), done)
        self.spec = spec

    def last_words(self) -> str:
        return ""

    def forget_port(self) -> None:
        self._driver.concentrator.forget(self._port)
