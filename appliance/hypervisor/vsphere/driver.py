"""The driver of one tenant's VMs on a vCenter or ESXi. README.md in this folder says how its parts work together."""

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio
from pyVmomi import vim

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Capacity, Driver, Machine, MachineSpec, own_capacity
from appliance.hypervisor.vsphere.capacity import HostCapacity
from appliance.hypervisor.vsphere.changes import Changes
from appliance.hypervisor.vsphere.collector import Collector, MachineSnapshot
from appliance.hypervisor.vsphere.concentrator import Concentrator
from appliance.hypervisor.vsphere.datastore import Datastore
from appliance.hypervisor.vsphere.disks import DatastoreDisks
from appliance.hypervisor.vsphere.faults import AlreadyThere
from appliance.hypervisor.vsphere.groups import MachineGroup
from appliance.hypervisor.vsphere.inventory import Inventory, Names, find
from appliance.hypervisor.vsphere.lookup import FoundMachine, TenantMachines
from appliance.hypervisor.vsphere.machine import VsphereMachine
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import (
    BootCd,
    becoming,
    check_names,
    cloning,
    config_of,
    is_unassigned,
    name_of,
    uuid_of,
    without_disks,
)

log = logging.getLogger(__name__)

# Attempts to create a VM while vSphere says that a VM of that name exists, and the VM is not found.
_MOST_NAME_CONFLICTS = 4


@dataclass(frozen=True, slots=True)
class GuestImage:
    """The CD image that machines boot from, its digest, and the firmware that boots it: bios or efi."""

    path: Path
    digest: str
    firmware: str


@dataclass(slots=True)
class KnownMachines:
    """The machines that the driver created or adopted, by their id and by the id of their managed object."""

    by_id: dict[str, VsphereMachine] = field(default_factory=dict)
    by_reference: dict[str, VsphereMachine] = field(default_factory=dict)

    def notify(self, key: str, snapshot: MachineSnapshot | None) -> None:
        """Hand a state that vSphere reports to the machine."""
        machine = self.by_reference.get(key)
        if machine is not None:
            machine.notify(snapshot)


@dataclass(frozen=True, slots=True)
class Site:
    """What a driver works with. `concentrator_uri` is where ESXi hosts reach the concentrator: telnet://address:port."""

    session: Session
    inventory: Inventory
    collector: Collector
    changes: Changes
    datastore: Datastore
    disks: DatastoreDisks
    concentrator: Concentrator
    concentrator_uri: str


class VsphereDriver(Driver):
    """The driver of the VMs of `names.tenant`. `cd` is what VMs boot from; `group` is the DRS group that every VM joins."""

    def __init__(
        self,
        site: Site,
        names: Names,
        known: KnownMachines,
        cd: BootCd | None = None,
        group: MachineGroup | None = None,
    ) -> None:
        self.session = site.session
        self.inventory = site.inventory
        self.collector = site.collector
        self.changes = site.changes
        self.datastore = site.datastore
        self.disks = site.disks
        self.concentrator = site.concentrator
        self.cd = cd
        self._concentrator_uri = site.concentrator_uri
        self._tenant = names.tenant
        self._names = names.machines
        self._known = known
        self._group = group
        self._capacity = HostCapacity(site.session, site.inventory.pool, own_capacity())
        self._lookup = TenantMachines(site.session, site.inventory, names.tenant)

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
        """Log in, find every object that `names` names, follow changes. HypervisorError or InvalidParameter says what is wrong.

        Without an image, machines have nothing to boot from. The tenant belongs to `owner` from now on; InvalidParameter when the
        tenant belongs to another owner.
        """
        check_names(names.machines)
        async with Session.open(server) as session:
            inventory = await find(session, names)
            known = KnownMachines()
            collector = Collector(session, inventory.folder, known.notify)
            changes = Changes(collector)
            places = [(inventory.datastore, inventory.datastore_name), *inventory.volume_stores.values()]
            async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
                stores = [
                    await stack.enter_async_context(
                        Datastore.open(session, inventory.location(*place), names.tenant, collector.carry_out)
                    )
                    for place in places
                ]
                # A newly claimed store has no recorded volumes.
                new = [store for store in stores if owner and await store.claim(owner)]
                others = dict(zip(inventory.volume_stores, stores[1:], strict=True))
                disks = DatastoreDisks(stores[0], others, new)
                cd: BootCd | None = None
                if image is not None:
                    path = await stores[0].file_of(image.path, f"guest/{image.digest[:32]}.iso")
                    cd = BootCd(path, stores[0].reference, image.firmware)
                group: MachineGroup | None = None
                if names.group:
                    group = MachineGroup(session, changes.make, inventory.pool, names.group)
                site = Site(session, inventory, collector, changes, stores[0], disks, concentrator, concentrator_uri)
                nursery.start_soon(collector.run)
                if group is not None:
                    await group.make()
                yield cls(site, names, known, cd, group)
                nursery.cancel_scope.cancel()

    async def connect(self) -> None:
        await self.collector.current.wait()

    async def capacity(self) -> Capacity:
        return await self._capacity.read()

    def describe(self) -> dict[str, str]:
        return {"Driver": "vsphere", "Version": self.session.describe(), "Tenant": self._tenant}

    @property
    def machines(self) -> list[VsphereMachine]:
        """The machines that were created or adopted."""
        return list(self._known.by_id.values())

    # -- creation -------------------------------------------------------------------------------------------------

    async def create(self, spec: MachineSpec) -> Machine:
        return await self.make(spec, all_adapters=spec.grows)

    async def make(self, spec: MachineSpec, *, all_adapters: bool = False) -> VsphereMachine:
        """See create. With `all_adapters` the VM has every SCSI adapter, for disks that are plugged in later."""
        serial = f"vch:{secrets.token_urlsafe(24)}"
        config = config_of(
            spec,
            self._name_of(spec),
            self._tenant,
            self.inventory.datastore_name,
            (self._concentrator_uri, serial),
            self.inventory.backing_of,
            await self.disks.place_all(spec.disks),
            self.cd,
            all_adapters=all_adapters,
            own_folder=self.datastore.names_folders,
        )
        create = partial(self.inventory.folder.CreateVM_Task, config, self.inventory.pool)
        found = await self._made(
            spec.id, create, lambda made: FoundMachine(made, spec, serial, uuid_of(self._tenant, spec.id))
        )
        return await self._join_group(self._enrol(found))

    async def _made(
        self,
        machine_id: str,
        method: Callable[[], object],
        result: Callable[[vim.VirtualMachine], FoundMachine],
        *,
        cloned: bool = False,
    ) -> FoundMachine:
        """The VM that this call made, or a call before whose answer was lost."""

        async def act() -> FoundMachine:
            return result(await self.collector.carry_out(f"create {machine_id[:12]}", method))

        return await self.changes.once(
            act, lambda: self._lookup.find(machine_id, cloned=cloned), AlreadyThere, _MOST_NAME_CONFLICTS
        )

    def _enrol(self, found: FoundMachine) -> VsphereMachine:
        port = self.concentrator.expect(found.uuid, found.serial)
        key = found.reference._moId
        machine = VsphereMachine(self, found, port, self.collector.machines.get(key))
        self._known.by_id[machine.id] = self._known.by_reference[key] = machine
        return machine

    async def _join_group(self, machine: VsphereMachine) -> VsphereMachine:
        """Add a VM to the DRS group before the VM is powered on, so that the operator's rules choose its host."""
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

    # -- for machines ---------------------------------------------------------------------------------------------

    async def detach_kept_disks(self, reference: vim.VirtualMachine, *, destroy_own: bool = False) -> None:
        """Detach from a VM the disks that outlive the VM. With `destroy_own`, also detach and delete the VM's own disks."""
        devices = await self.session.look("disks", reference, "config.hardware.device")
        change = without_disks(devices or (), self.disks.folders(), own=destroy_own)
        if change is None:
            return

        async def done() -> bool:
            left = await self.session.look("disks", reference, "config.hardware.device")
            return without_disks(left or (), self.disks.folders(), own=destroy_own) is None

        await self.changes.make("detach the disks of", partial(reference.ReconfigVM_Task, change), done)

    async def turn_into(self, machine: VsphereMachine, spec: MachineSpec) -> None:
        """Give an unassigned, running VM the name, disks and NICs of this spec. As its parent, the VM has all SCSI adapters."""
        spec = replace(spec, grows=True)
        disks = await self.disks.place_all(spec.disks)
        change = becoming(spec, self._name_of(spec), self._tenant, machine.serial, disks, self.inventory.backing_of)

        async def done() -> bool:
            return any(one.spec.id == spec.id for one in await self._lookup.among([machine.reference]))

        # Set before the VM has the disks: if the change fails, `destroy` must detach the disks first.
        self._known.by_id.pop(machine.id, None)
        machine.id, machine.spec = spec.id, spec
        self._known.by_id[machine.id] = machine
        await self.changes.make(f"become {spec.id[:12]}", partial(machine.reference.ReconfigVM_Task, change), done)

    def forget(self, machine: VsphereMachine) -> None:
        """The VM is gone."""
        self._known.by_id.pop(machine.id, None)
        self._known.by_reference.pop(machine.reference._moId, None)
        self.concentrator.forget(machine.port)

    # -- InstantClones --------------------------------------------------------------------------------------------

    async def clone(self, parent: VsphereMachine, spec: MachineSpec) -> VsphereMachine:
        """Create an InstantClone of a running VM. The clone runs too, and is unassigned."""
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
            lambda made: FoundMachine(made, spec, parent.serial, ""),
            cloned=True,
        )
        try:
            if not found.uuid:
                uuid = await self.session.look("uuid", found.reference, "config.instanceUuid")
                found = replace(found, uuid=str(uuid))
            machine = await self._join_group(self._enrol(found))
            await machine.wait_powered_on()
        except BaseException:
            # The clone runs already, and no other code knows it.
            with trio.CancelScope(shield=True), suppress(HypervisorError):
                await self.collector.carry_out("power off a clone", found.reference.PowerOff)
                await self.collector.carry_out("remove a clone", found.reference.Destroy)
            raise
        return machine

    # -- adoption -------------------------------------------------------------------------------------------------

    async def adopt(self) -> list[Machine]:
        """The tenant's VMs. Other VMs in the tenant's folder are left alone."""
        await self.collector.current.wait()
        references = [snapshot.reference for snapshot in self.collector.machines.values()]
        new = [reference for reference in references if reference._moId not in self._known.by_reference]
        adopted: list[Machine] = []
        for found in await self._lookup.among(new):
            machine = self._enrol(found)
            if is_unassigned(machine.id):
                # How far the daemon before had brought its guest is unknown.
                await machine.destroy()
            else:
                adopted.append(machine)
        try:
            await self._remove_old_cds(references)
        except HypervisorError as error:
            log.warning("CDs of earlier guest images stay: %s", error)
        return adopted

    async def _remove_old_cds(self, references: Sequence[vim.VirtualMachine]) -> None:
        """Remove the CD images of earlier guests that no VM has any more."""
        if self.cd is None:
            return
        paths = {
            self.datastore.path(f"guest/{name}"): name for name in await self.datastore.list_files("guest", "*.iso")
        }
        paths.pop(self.cd.path, None)
        if not paths:
            return
        found = await self.session.properties("CDs", references, ["config.hardware.device"])
        for properties in found.values():
            for device in properties.get("config.hardware.device") or ():
                if isinstance(device, vim.vm.device.VirtualCdrom):
                    paths.pop(str(getattr(device.backing, "fileName", "")), None)
        for path, name in paths.items():
            log.info("no VM uses %s any more: removed", path)
            await self.datastore.delete(f"guest/{name}")
