"""Machines of one tenant on a vCenter or ESXi. A change is made once, whatever becomes of its answer: it is looked at what came of it."""

import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio
from pyVmomi import vim

from appliance.errors import HypervisorError, one_by_itself
from appliance.hypervisor.driver import (
    Disk,
    Driver,
    Machine,
    MachineSpec,
)
from appliance.hypervisor.vsphere.collector import Collector, Seen
from appliance.hypervisor.vsphere.concentrator import Concentrator
from appliance.hypervisor.vsphere.datastore import Datastore
from appliance.hypervisor.vsphere.disks import DatastoreDisks
from appliance.hypervisor.vsphere.faults import AlreadyThere, AnswerLost, Busy, WrongState
from appliance.hypervisor.vsphere.groups import MachineGroup
from appliance.hypervisor.vsphere.inventory import Inventory, Names, find
from appliance.hypervisor.vsphere.machine import VsphereMachine
from appliance.hypervisor.vsphere.session import Server, Session
from appliance.hypervisor.vsphere.spec import (
    MACHINE_KEY,
    SPEC_KEY,
    TENANT_KEY,
    BootCd,
    PlacedDisk,
    address_of,
    becoming,
    check_names,
    cloning,
    config_of,
    decode,
    is_nobodys,
    name_of,
    uuid_of,
    without_disks,
)
from appliance.hypervisor.vsphere.stacks import size_of_stack, slots_of, uppermost

log = logging.getLogger(__name__)

T = TypeVar("T")

# How often a change is tried whose answer is lost or that others are in the way of, and how long it waits between.
_TRIES = 8
_PAUSE, _LONGEST_PAUSE = 0.1, 3.0


@dataclass(frozen=True, slots=True)
class _Ours:
    """A machine that is there: what it was made to, its port's URI, vCenter's UUID of it."""

    reference: Any
    spec: MachineSpec
    serial: str
    uuid: str


@dataclass(frozen=True, slots=True)
class GuestImage:
    """The CD that machines boot from, by its digest, and the firmware that does it: bios or efi."""

    path: Path
    digest: str
    firmware: str


class VsphereDriver(Driver):
    """Machines of `names.tenant`. `concentrator_uri` is where hosts reach our serial port concentrator: telnet://address:port."""

    def __init__(
        self, session: Session, inventory: Inventory, names: Names, concentrator: Concentrator, concentrator_uri: str
    ) -> None:
        self.session = session
        # Set by `open`.
        self.datastore: Datastore
        self.disks: DatastoreDisks
        self.cd: BootCd | None = None
        self._group: MachineGroup | None = None
        if names.group:
            self._group = MachineGroup(session, self.change, inventory.pool, names.group)
        self.concentrator = concentrator
        self.inventory = inventory
        self._tenant = names.tenant
        self._names = check_names(names.machines)
        self._concentrator_uri = concentrator_uri
        self._machines: dict[str, VsphereMachine] = {}
        self._by_reference: dict[str, VsphereMachine] = {}
        self.collector = Collector(session, inventory.folder, self._tell)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        server: Server,
        names: Names,
        concentrator: Concentrator,
        concentrator_uri: str,
        image: GuestImage | None = None,
        owner: str = "",
    ) -> AsyncIterator["VsphereDriver"]:
        """Log in, find all that is named, follow what happens. HypervisorError or InvalidParameter says what is wrong.

        Without an image machines have nothing that they could boot from. `owner` is whose the tenant is from now on, and nobody
        else's; InvalidParameter when it is somebody's.
        """
        async with Session.open(server) as session:
            driver = cls(session, await find(session, names), names, concentrator, concentrator_uri)
            inventory = driver.inventory
            places = [(inventory.datastore, inventory.datastore_name), *inventory.volume_stores.values()]
            async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                stores = [
                    await stack.enter_async_context(
                        Datastore.open(session, inventory.on(*place), names.tenant, driver.collector.carry_out)
                    )
                    for place in places
                ]
                # Of an owner before us there is nothing that we would know of.
                new = [store for store in stores if owner and await store.claim(owner)]
                driver.datastore = stores[0]
                others = dict(zip(inventory.volume_stores, stores[1:], strict=True))
                driver.disks = DatastoreDisks(stores[0], others, new)
                if image is not None:
                    path = await driver.datastore.file_of(image.path, f"guest/{image.digest[:32]}.iso")
                    driver.cd = BootCd(path, driver.datastore.reference, image.firmware)
                nursery.start_soon(driver.collector.run)
                if driver._group is not None:
                    await driver._group.make()
                yield driver
                nursery.cancel_scope.cancel()

    async def connect(self) -> None:
        await self.collector.current.wait()

    def describe(self) -> dict[str, str]:
        return {"Driver": "vsphere", "Version": self.session.describe(), "Tenant": self._tenant}

    @property
    def machines(self) -> list[VsphereMachine]:
        """Those that are known, made or adopted."""
        return list(self._machines.values())

    # -- what vSphere tells ---------------------------------------------------------------------------------------

    def seen(self, reference: Any) -> Seen | None:
        """What it has told of a machine so far."""
        return self.collector.machines.get(reference._moId)

    def _tell(self, key: str, seen: Seen | None) -> None:
        machine = self._by_reference.get(key)
        if machine is not None:
            machine.tell(seen)

    # -- changes, made once ---------------------------------------------------------------------------------------

    async def settle(
        self,
        act: Callable[[], Awaitable[T]],
        look: Callable[[], Awaitable[T | None]],
        refusal: type[HypervisorError],
        most: int,
    ) -> T:
        """What `act` gives, or `look` finds where it is not told whether it was done. Other faults are the caller's.

        `refusal` is what says that it may have been done already; it is believed when it is said `most` times.
        """
        pause = _PAUSE
        for tried in range(1, _TRIES + 1):
            try:
                return await act()
            except (AnswerLost, Busy, refusal) as error:
                found = await look()
                if found is not None:
                    return found
                if tried == _TRIES or (isinstance(error, refusal) and tried >= most):
                    raise
                log.info("%s; it is tried again", error)
            await trio.sleep(pause)
            pause = min(_LONGEST_PAUSE, pause * 2)
        raise AssertionError("unreachable")

    async def change(self, what: str, method: Callable[..., Any], done: Callable[[], Awaitable[bool]]) -> None:
        """Carry out a change of a machine. WrongState when it is not in the state for it, Gone, and other faults."""

        async def act() -> bool:
            await self.collector.carry_out(what, method)
            return True

        async def look() -> bool | None:
            return await done() or None

        await self.settle(act, look, WrongState, 3)

    async def create(self, spec: MachineSpec) -> Machine:
        return await self.make(spec)

    async def make(self, spec: MachineSpec, *, all_adapters: bool = False) -> VsphereMachine:
        """See create; with `all_adapters` there is room for disks that come later."""
        serial = f"vch:{secrets.token_urlsafe(24)}"
        config = config_of(
            spec,
            self._name_of(spec),
            self._tenant,
            self.inventory.datastore_name,
            (self._concentrator_uri, serial),
            self.inventory.backing_of,
            await self._place(spec),
            self.cd,
            all_adapters=all_adapters,
            own_folder=self.datastore.names_folders,
        )
        create = partial(self.inventory.folder.CreateVM_Task, config, self.inventory.pool)
        found = await self._made(
            spec.id, create, lambda made: _Ours(made, spec, serial, uuid_of(self._tenant, spec.id))
        )
        return await self._grouped(self._enrol(found))

    async def _grouped(self, machine: VsphereMachine) -> VsphereMachine:
        """Have it in our group before it is anywhere."""
        if self._group is not None:
            try:
                await self._group.add(machine.reference)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await machine.destroy()
                raise
        return machine

    def _name_of(self, spec: MachineSpec) -> str:
        return name_of(self._names, self._tenant, spec)

    async def _place(self, spec: MachineSpec) -> list[PlacedDisk]:
        """Have a machine's disks on the datastore."""
        placed: dict[int, PlacedDisk] = {}
        together = uppermost([disk.path for disk in spec.disks if disk.read_only])

        async def place(number: int, disk: Disk, partition: int) -> None:
            if partition:
                placed[number] = PlacedDisk(await self.disks.stack(together), size_of_stack(together), True)
            elif disk.read_only:
                path = await self.disks.shared(disk.path)
                placed[number] = PlacedDisk(path, disk.path.stat().st_size, True)
            else:
                placed[number] = PlacedDisk(self.disks.place(disk.path), 0, False)

        with one_by_itself():
            async with trio.open_nursery() as nursery:
                for slot, disk in zip(slots_of(spec.disks), spec.disks, strict=True):
                    address_of(slot.disk)
                    if slot.partition <= 1:
                        nursery.start_soon(place, slot.disk, disk, slot.partition)
        return [placed[number] for number in range(len(placed))]

    async def take_disks_from(self, reference: Any, *, own: bool = False) -> None:
        """Take from a machine the disks that are not its own only; its own, too, with `own`."""
        devices = await self.session.look("disks", reference, "config.hardware.device")
        change = without_disks(devices or (), self.disks.folders(), own=own)
        if change is None:
            return

        async def taken() -> bool:
            left = await self.session.look("disks", reference, "config.hardware.device")
            return without_disks(left or (), self.disks.folders(), own=own) is None

        await self.change("take the disks from", partial(reference.ReconfigVM_Task, change), taken)

    async def _made(
        self, machine_id: str, method: Callable[[], Any], result: Callable[[Any], "_Ours"], *, cloned: bool = False
    ) -> "_Ours":
        """The machine that was made, by this call or by one whose answer was lost."""

        async def act() -> _Ours:
            return result(await self.collector.carry_out(f"create {machine_id[:12]}", method))

        return await self.settle(act, lambda: self._find(machine_id, cloned=cloned), AlreadyThere, 4)

    async def _find(self, machine_id: str, *, cloned: bool) -> "_Ours | None":
        """A machine by the key that it was given, if it is there."""
        search = self.session.content.searchIndex
        uuid = uuid_of(self._tenant, machine_id)
        found = await self.session.read(
            "look for a machine", search.FindAllByUuid, self.inventory.datacenter, uuid, True, not cloned
        )
        return next((one for one in await self._ours(found or ()) if one.spec.id == machine_id), None)

    async def _ours(self, references: Sequence[Any]) -> list["_Ours"]:
        """Those of this tenant; not those that somebody has made something else of."""
        found = []
        paths = ["config.extraConfig", "config.instanceUuid"]
        by_id = await self.session.properties("look at machines", references, paths)
        for reference in references:
            facts = by_id.get(reference._moId, {})
            values = {one.key: one.value for one in facts.get("config.extraConfig") or ()}
            if values.get(TENANT_KEY) != self._tenant:
                continue
            try:
                spec, serial = decode(values.get(SPEC_KEY, ""))
            except ValueError as error:
                log.warning("machine %s is of ours, but what it is cannot be read: %s", values.get(MACHINE_KEY), error)
                continue
            if spec.id == values.get(MACHINE_KEY):
                found.append(_Ours(reference, spec, serial, str(facts.get("config.instanceUuid"))))
        return found

    def _enrol(self, found: "_Ours") -> VsphereMachine:
        port = self.concentrator.expect(found.uuid, found.serial)
        machine = VsphereMachine(self, found.spec, found.reference, port)
        self._machines[machine.id] = self._by_reference[machine.reference._moId] = machine
        return machine

    # -- machines that were booted before -------------------------------------------------------------------------

    async def clone(self, parent: VsphereMachine, spec: MachineSpec) -> VsphereMachine:
        """An InstantClone of a machine that runs: it runs, too, and is nobody's yet."""
        inventory = self.inventory
        what = cloning(
            spec,
            self._name_of(spec),
            self._tenant,
            parent.serial,
            inventory.folder,
            inventory.pool,
            inventory.datastore,
        )
        found = await self._made(
            spec.id,
            partial(parent.reference.InstantClone_Task, what),
            lambda made: _Ours(made, spec, parent.serial, ""),
            cloned=True,
        )
        try:
            if not found.uuid:
                uuid = await self.session.look("uuid", found.reference, "config.instanceUuid")
                found = replace(found, uuid=str(uuid))
            machine = await self._grouped(self._enrol(found))
            await machine.told_on()
        except BaseException:
            # It runs already, and nobody would ever know it.
            with trio.CancelScope(shield=True), suppress(HypervisorError):
                await self.collector.carry_out("power off a clone", found.reference.PowerOff)
                await self.collector.carry_out("remove a clone", found.reference.Destroy)
            raise
        return machine

    async def turn_into(self, machine: VsphereMachine, spec: MachineSpec) -> None:
        """Make a machine that is nobody's one of this spec: its name, its disks, its cards. It goes on running."""
        change = becoming(
            spec, self._name_of(spec), self._tenant, machine.serial, await self._place(spec), self.inventory.backing_of
        )

        async def done() -> bool:
            return any(one.spec.id == spec.id for one in await self._ours([machine.reference]))

        # Before it has them: whoever destroys it is not to destroy the disks.
        self._machines.pop(machine.id, None)
        machine.id, machine.spec = spec.id, spec
        self._machines[machine.id] = machine
        await self.change(f"become {spec.id[:12]}", partial(machine.reference.ReconfigVM_Task, change), done)

    def forget(self, machine: VsphereMachine) -> None:
        """It is gone."""
        self._machines.pop(machine.id, None)
        self._by_reference.pop(machine.reference._moId, None)
        machine.forget_port()

    async def adopt(self) -> list[Machine]:
        """Those of this tenant that are there; what others have in its folder is left alone."""
        await self.collector.current.wait()
        known = [seen.reference for seen in self.collector.machines.values()]
        new = [reference for reference in known if reference._moId not in self._by_reference]
        adopted: list[Machine] = []
        for found in await self._ours(new):
            machine = self._enrol(found)
            if is_nobodys(machine.id):
                # Nobody knows any more what its guest has been told.
                await machine.destroy()
            else:
                adopted.append(machine)
        try:
            await self._tidy_guests(known)
        except HypervisorError as error:
            log.warning("CDs of earlier guests stay where they are: %s", error)
        return adopted

    async def _tidy_guests(self, machines: Sequence[Any]) -> None:
        """Remove the CDs of earlier guests that no machine has any more."""
        if self.cd is None:
            return
        paths = {
            self.datastore.path(f"guest/{name}"): name for name in await self.datastore.list_files("guest", "*.iso")
        }
        paths.pop(self.cd.path, None)
        if not paths:
            return
        found = await self.session.properties("CDs", machines, ["config.hardware.device"])
        for facts in found.values():
            for device in facts.get("config.hardware.device") or ():
                if isinstance(device, vim.vm.device.VirtualCdrom):
                    paths.pop(str(getattr(device.backing, "fileName", "")), None)
        for path, name in paths.items():
            log.info("%s is no machine's any more, and is removed", path)
            await self.datastore.delete(f"guest/{name}")
