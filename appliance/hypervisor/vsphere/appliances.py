"""Appliances on a vCenter or ESXi: find, deploy, configure and remove them. The calls of `vch` to vSphere."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from pyVmomi import vim

from appliance.errors import Conflict, HypervisorError, NotFound
from appliance.hypervisor.vsphere.collector import Collector
from appliance.hypervisor.vsphere.datastore import Datastore
from appliance.hypervisor.vsphere.deployment import ENVIRONMENT_KEY, KEY, Deployment, Package, Plan, Progress, extra_of
from appliance.hypervisor.vsphere.disks import FOLDER, is_volume
from appliance.hypervisor.vsphere.extension import extension_key
from appliance.hypervisor.vsphere.faults import Gone, WrongState, words_of
from appliance.hypervisor.vsphere.groups import MachineGroup
from appliance.hypervisor.vsphere.inventory import DatastoreLocation, all_named, find_one
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.session import Properties, Session
from appliance.hypervisor.vsphere.spec import MACHINE_KEY, TENANT_KEY, is_unassigned, without_disks
from appliance.provision.environment import encode, parse

log = logging.getLogger(__name__)

_ROLE = "vch operations"
_PAUSE = 1.0
_TASK_PATHS = ["info.startTime", "info.descriptionId", "info.entityName", "info.state", "info.error"]
_PATHS = [
    "name",
    "runtime.powerState",
    "config.extraConfig",
    "config.vAppConfig",
    "config.uuid",
    "guest.net",
    "guest.ipAddress",
    "resourcePool",
    "parent",
]


@dataclass(frozen=True, slots=True)
class Deployed:
    """A deployed appliance. `values` are its properties; `addresses` are those that its guest reports, by the NIC's MAC address."""

    reference: Any
    name: str
    tenant: str
    version: str
    power: str
    identity: str
    values: Mapping[str, str]
    addresses: Mapping[str, tuple[str, ...]]
    address: str
    pool: Any
    folder: Any


class Appliances:
    """The appliances of a vCenter or ESXi that an operator's account can see."""

    def __init__(self, session: Session, collector: Collector) -> None:
        self.session = session
        self._collector = collector

    @classmethod
    @asynccontextmanager
    async def open(cls, server: Server) -> AsyncIterator["Appliances"]:
        """Log in. HypervisorError says why it cannot."""
        async with Session.open(server) as session, trio.open_nursery() as nursery:
            # For tasks only: the properties of VMs are read when they are needed.
            collector = Collector(session, None, lambda *_: None)
            nursery.start_soon(collector.run)
            yield cls(session, collector)
            nursery.cancel_scope.cancel()

    async def carry_out(self, what: str, method: Callable[..., Any], *arguments: Any) -> Any:
        """See Collector."""
        return await self._collector.carry_out(what, method, *arguments)

    # -- inventory --------------------------------------------------------------------------------------------

    async def all(self) -> list[Deployed]:
        """All appliances that the account can see, sorted by name."""
        content = self.session.content
        view = await self.session.change(
            "machines", content.viewManager.CreateContainerView, content.rootFolder, [vim.VirtualMachine], True
        )
        try:
            references = await self.session.look("machines", view, "view") or ()
        finally:
            await self.session.part(view.DestroyView)
        # The first call finds the appliances, so that no property of another VM is read.
        found = await self.session.properties("machines", references, ["config.extraConfig"])
        ours = [one for one in references if KEY in extra_of(found.get(one._moId, Properties()))]
        return sorted([one for reference in ours if (one := await self.look(reference))], key=lambda one: one.name)

    async def named(self, name: str) -> Deployed:
        """Find an appliance by its name or the id of its managed object. NotFound names the appliances that exist.

        Conflict when several appliances have the name.
        """
        everything = await self.all()
        found = [one for one in everything if name in (one.name, one.reference._moId)]
        if not found:
            there = ", ".join(one.name for one in everything) or "none"
            raise NotFound(f"no such appliance: {name}; there are {there}")
        if len(found) > 1:
            ids = ", ".join(one.reference._moId for one in found)
            raise Conflict(f"{name}: several appliances have that name; use an id: {ids}")
        return found[0]

    async def look(self, reference: Any) -> Deployed | None:
        """Read an appliance; None when the VM is gone or is not an appliance."""
        found = (await self.session.properties("appliance", [reference], _PATHS)).get(reference._moId)
        if found is None:
            return None
        extra = extra_of(found)
        try:
            about = json.loads(extra[KEY])
            tenant, version = str(about["tenant"]), str(about["version"])
        except (KeyError, ValueError, TypeError):
            return None
        config = found.get("config.vAppConfig")
        values = {
            one.id: one.value or one.defaultValue or "" for one in (config.property if config is not None else ())
        }
        if not values:
            values = dict(parse(extra[ENVIRONMENT_KEY].encode()).values) if extra.get(ENVIRONMENT_KEY) else {}
        addresses = {
            nic.macAddress.lower(): tuple(nic.ipAddress or ()) for nic in found.get("guest.net") or () if nic.macAddress
        }
        return Deployed(
            reference,
            str(found["name"]),
            tenant,
            version,
            str(found["runtime.powerState"]),
            str(found.get("config.uuid", "")),
            values,
            addresses,
            str(found.get("guest.ipAddress") or ""),
            found.get("resourcePool"),
            found.get("parent"),
        )

    async def containers(self, appliance: Deployed, *, waiting: bool = False) -> list[tuple[Any, str, bool]]:
        """The VMs of the appliance's containers: reference, name, whether the VM is on. With `waiting`, unassigned VMs too."""
        children = await self.session.look("containers", appliance.folder, "childEntity") or ()
        machines = [one for one in children if isinstance(one, vim.VirtualMachine)]
        found = await self.session.properties(
            "containers", machines, ["name", "runtime.powerState", "config.extraConfig"]
        )
        return [
            (machine, str(facts["name"]), facts["runtime.powerState"] != "poweredOff")
            for machine in machines
            if (facts := found.get(machine._moId))
            and (extra := extra_of(facts)).get(TENANT_KEY) == appliance.tenant
            and (waiting or not is_unassigned(extra.get(MACHINE_KEY, "")))
        ]

    async def history(self, appliance: Deployed) -> dict[str, str]:
        """vSphere's `events` and `tasks` of the appliance and its containers, one line each, the oldest first."""
        manager = self.session.content.eventManager
        entity = appliance.folder if self.session.is_vcenter and appliance.folder is not None else appliance.reference
        which = vim.event.EventFilterSpec.ByEntity(entity=entity, recursion="all")
        events = await self.session.read("events", manager.QueryEvents, vim.event.EventFilterSpec(entity=which)) or ()
        lines = sorted(
            f"{one.createdTime.isoformat()} {one.userName or '-'}: {one.fullFormattedMessage}" for one in events
        )
        recent = await self.session.look("tasks", self.session.content.taskManager, "recentTask") or ()
        facts = await self.session.properties("tasks", recent, _TASK_PATHS)
        tasks = []
        for found in facts.values():
            began, error = found.get("info.startTime"), found.get("info.error")
            words = [began.isoformat() if began else "-", *(str(found.get(path, "-")) for path in _TASK_PATHS[1:4])]
            tasks.append(" ".join(words) + (f": {words_of(error)}" if error is not None else ""))
        return {"events": "\n".join([*lines, ""]), "tasks": "\n".join([*sorted(tasks), ""])}

    # -- deployment -----------------------------------------------------------------------------------------------

    async def make_pool(self, parent: Any, name: str, cpu_limit: int, memory_limit: int) -> Any:
        """Create a resource pool below `parent`; limits in MHz and MiB, -1 for none. AlreadyThere when the name is in use."""

        def share(limit: int) -> Any:
            return vim.ResourceAllocationInfo(
                reservation=0, limit=limit, expandableReservation=True, shares=vim.SharesInfo(level="normal", shares=0)
            )

        spec = vim.ResourceConfigSpec(cpuAllocation=share(cpu_limit), memoryAllocation=share(memory_limit))
        return await self.session.change(f"resource pool {name}", parent.CreateResourcePool, name, spec)

    async def deploy(self, plan: Plan, package: Package, on_progress: Progress) -> Any:
        """Create the appliance's VM, which is off. After a failure everything that was created is removed."""
        return await Deployment(self.session, self.carry_out, plan, package, on_progress).run()

    # -- changes --------------------------------------------------------------------------------------------------

    async def power_on(self, reference: Any) -> None:
        try:
            await self.carry_out("power on", reference.PowerOnVM_Task, None)
        except WrongState:
            if await self.session.look("power on", reference, "runtime.powerState") != "poweredOn":
                raise

    async def power_off(self, reference: Any, grace: float = 0.0) -> None:
        """Shut the guest down, if it has VMware Tools; power off after `grace` seconds, or at once."""
        if grace:
            try:
                await self.session.change("shut down", reference.ShutdownGuest)
            except HypervisorError as error:
                log.info("%s", error)
            else:
                with trio.move_on_after(grace):
                    while True:
                        if await self.session.look("shut down", reference, "runtime.powerState") == "poweredOff":
                            return
                        await trio.sleep(_PAUSE)
        try:
            await self.carry_out("power off", reference.PowerOffVM_Task)
        except WrongState:
            if await self.session.look("power off", reference, "runtime.powerState") != "poweredOff":
                raise

    async def set_values(self, appliance: Deployed, values: Mapping[str, str]) -> None:
        """Set properties of an appliance, which reads them when it boots."""
        if not self.session.is_vcenter:
            text = encode({**appliance.values, **values}).decode()
            change = vim.vm.ConfigSpec(extraConfig=[vim.option.OptionValue(key=ENVIRONMENT_KEY, value=text)])
        else:
            config = await self.session.look("properties", appliance.reference, "config.vAppConfig")
            changed = []
            for one in config.property:
                if one.id in values:
                    one.value = values[one.id]
                    changed.append(vim.vApp.PropertySpec(operation="edit", info=one))
            change = vim.vm.ConfigSpec(vAppConfig=vim.vApp.VmConfigSpec(property=changed))
        await self.carry_out("properties", appliance.reference.ReconfigVM_Task, change)

    async def extra(self, reference: Any) -> dict[str, str]:
        """A VM's extraConfig, by key. The guest can read the keys that begin with guestinfo."""
        return extra_of(
            Properties({"config.extraConfig": await self.session.look("settings", reference, "config.extraConfig")})
        )

    async def set_extra(self, reference: Any, values: Mapping[str, str]) -> None:
        """Set values of a VM's extraConfig. The guest sees them at once."""
        change = vim.vm.ConfigSpec(
            extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in values.items()]
        )
        await self.carry_out("settings", reference.ReconfigVM_Task, change)

    async def destroy(self, reference: Any) -> None:
        """Destroy a VM that is off, with its own disks. No error when the VM does not exist."""
        try:
            await self.carry_out("remove", reference.Destroy_Task)
        except Gone:
            pass

    async def end(self, reference: Any) -> None:
        """Power off a VM, if it is on, and destroy it."""
        await self.power_off(reference)
        await self.destroy(reference)

    async def remove_pool(self, pool: Any) -> None:
        """Remove a resource pool; its VMs move to its parent. No error when the pool does not exist."""
        try:
            await self.carry_out("remove the resource pool", pool.Destroy_Task)
        except Gone:
            pass

    async def remove_folder(self, folder: Any) -> bool:
        """Remove a folder of VMs, if it is empty; whether it was removed."""
        if not self.session.is_vcenter or await self.session.look("folder", folder, "childEntity"):
            return False
        await self.carry_out("remove the folder", folder.Destroy_Task)
        return True

    # -- a tenant's disks and files -------------------------------------------------------------------------------

    async def folders(self, appliance: Deployed) -> tuple[str, ...]:
        """The folders of the tenant's files: "[datastore] folder/"."""
        return tuple([files.path("") async for files in self._datastores(appliance)])

    async def keep_disks(self, machine: Any, folders: tuple[str, ...]) -> None:
        """Detach the disks of a VM that are in one of these folders, so that `destroy` does not delete them."""
        devices = await self.session.look("disks", machine, "config.hardware.device")
        change = without_disks(devices or (), folders)
        if change is not None:
            await self.carry_out("detach the disks", machine.ReconfigVM_Task, change)

    async def datacenter_of(self, appliance: Deployed) -> tuple[str, Any]:
        """The appliance's datacenter, with its name."""
        root, wanted = self.session.content.rootFolder, appliance.values.get("datacenter", "")
        return await find_one(self.session, root, vim.Datacenter, wanted, "--datacenter")

    async def remove_files(self, appliance: Deployed, *, volumes: bool) -> list[str]:
        """Remove the tenant's files from the datastores. Without `volumes`, volumes stay, and their paths are returned."""
        kept: list[str] = []
        async for files in self._datastores(appliance):
            kept += await _remove_files(files, volumes=volumes)
        return kept

    async def _datastores(self, appliance: Deployed) -> AsyncIterator[Datastore]:
        """The datastores with files of the tenant, each open until the next."""
        name, datacenter = await self.datacenter_of(appliance)
        there = await all_named(self.session, datacenter, vim.Datastore)
        stores = [text.partition("=")[2] for text in appliance.values.get("volume-stores", "").split(",")]
        for store in dict.fromkeys([appliance.values.get("image-store", ""), *stores]):
            if store in there:
                place = DatastoreLocation(datacenter, name, there[store], store)
                async with Datastore.open(self.session, place, appliance.tenant, self.carry_out) as files:
                    yield files

    def group(self, pool: Any, name: str) -> MachineGroup:
        """The DRS group of this name in the pool's cluster."""

        async def change(what: str, method: Callable[..., Any], _: Callable[[], Awaitable[bool]]) -> None:
            await self.carry_out(what, method)

        return MachineGroup(self.session, change, pool, name)

    async def ticket(self) -> str:
        """A ticket that clones this session once, and expires soon."""
        return str(await self.session.change("ticket", self.session.content.sessionManager.AcquireCloneTicket))

    async def remove_extension(self, tenant: str) -> None:
        """Unregister the extension of a tenant's appliance, if it is registered."""
        manager, key = self.session.content.extensionManager, extension_key(tenant)
        if manager is not None and await self.session.read("extension", manager.FindExtension, key) is not None:
            await self.session.change("extension", manager.UnregisterExtension, key)

    async def grant(self, user: str, datacenter: Any, privileges: Sequence[str]) -> None:
        """Give an account the role `_ROLE` with these privileges, on a datacenter and everything in it."""
        manager = self.session.content.authorizationManager
        roles = await self.session.look("roles", manager, "roleList") or ()
        role = next((one for one in roles if one.name == _ROLE), None)
        if role is None:
            identity = await self.session.change(f"role {_ROLE}", manager.AddAuthorizationRole, _ROLE, list(privileges))
        else:
            identity = role.roleId
            everything = sorted({*role.privilege, *privileges})
            await self.session.change(f"role {_ROLE}", manager.UpdateAuthorizationRole, identity, _ROLE, everything)
        permission = vim.AuthorizationManager.Permission(principal=user, group=False, roleId=identity, propagate=True)
        await self.session.change(f"permissions of {user}", manager.SetEntityPermissions, datacenter, [permission])


async def _remove_files(files: Datastore, *, volumes: bool) -> list[str]:
    kept = []
    for name in await files.list_files(FOLDER):
        if name.endswith("-flat.vmdk"):
            continue
        if is_volume(name) and not volumes:
            kept.append(files.path(f"{FOLDER}/{name}"))
        else:
            await files.delete_disk(files.path(f"{FOLDER}/{name}"))
    for part in ("layers", "guest", "owner") if kept else ("",):
        await files.delete(part)
    return kept
