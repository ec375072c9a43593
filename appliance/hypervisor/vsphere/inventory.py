"""Where a tenant's machines are: datacenter, pool, folder, datastore and networks, by their names in the inventory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pyVmomi import vim

from appliance.errors import InvalidParameter
from appliance.hypervisor.driver import Nic
from appliance.hypervisor.vsphere.faults import AlreadyThere
from appliance.hypervisor.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class Names:
    """What an operator says. An empty one stands for the only one that there is; pool is a path below the hosts' folder."""

    tenant: str
    datacenter: str = ""
    pool: str = ""
    folder: str = ""
    datastore: str = ""
    bridge: str = ""
    # What machines are called: see spec.check_names.
    machines: str = "{name}-{id}"
    # Portgroups that containers may be on beside, by name.
    portgroups: tuple[str, ...] = ()
    # Names of volume stores and of the datastores that they are.
    volume_stores: tuple[tuple[str, str], ...] = ()
    # Of the cluster's machines: see groups. "": none.
    group: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The managed objects of those names. Machines are made in `folder`, which is the tenant's own where the server has folders."""

    datacenter: Any
    datacenter_name: str
    pool: Any
    folder: Any
    datastore: Any
    datastore_name: str
    # What machines' NICs are backed by: a port of the bridge network, or of another portgroup by its name.
    backing: Any
    portgroups: dict[str, Any]
    # By the volume store's name: a datastore, and its name.
    volume_stores: dict[str, tuple[Any, str]]

    def backing_of(self, nic: Nic) -> Any:
        """A NIC's bridge is a portgroup's name, or one of ours: that is on the bridge network."""
        return self.portgroups.get(nic.bridge, self.backing)

    def on(self, datastore: Any, name: str) -> "Inventory":
        """The same with another datastore."""
        return replace(self, datastore=datastore, datastore_name=name)


async def find(session: Session, names: Names) -> Inventory:
    """Look all of it up. InvalidParameter says which setting names what is not there, and what there is."""
    content = session.content
    datacenter_name, datacenter = await find_one(
        session, content.rootFolder, vim.Datacenter, names.datacenter, "--datacenter"
    )
    hosts = await session.look("inventory", datacenter, "hostFolder")
    machines = await session.look("inventory", datacenter, "vmFolder")
    pool = await find_pool(session, hosts, names.pool)
    datastore_name, datastore = await find_one(session, datacenter, vim.Datastore, names.datastore, "--image-store")
    bridge_name, bridge = await find_one(session, datacenter, vim.Network, names.bridge, "--bridge-network")
    folder = await tenant_folder(session, machines, names)
    backing = await backing_of(session, bridge_name, bridge)
    portgroups = {}
    for wanted in names.portgroups:
        found = await find_one(session, datacenter, vim.Network, wanted, "--container-network")
        portgroups[wanted] = await backing_of(session, *found)
    stores = {}
    for store, wanted in names.volume_stores:
        store_name, reference = await find_one(session, datacenter, vim.Datastore, wanted, f"--volume-store {store}")
        stores[store] = reference, store_name
    return Inventory(datacenter, datacenter_name, pool, folder, datastore, datastore_name, backing, portgroups, stores)


async def all_named(session: Session, root: Any, kind: type) -> dict[str, Any]:
    """All objects of a kind below one, by name."""
    content = session.content
    view = await session.change("inventory", content.viewManager.CreateContainerView, root, [kind], True)
    try:
        return await _by_name(session, await session.look("inventory", view, "view") or ())
    finally:
        await session.change("inventory", view.DestroyView)


async def _by_name(session: Session, objects: Sequence[Any]) -> dict[str, Any]:
    """Of one kind or of several."""
    named: dict[str, Any] = {}
    for kind in {type(one) for one in objects}:
        some = [one for one in objects if type(one) is kind]
        found = await session.properties("inventory", some, ["name"])
        named |= {str(found[one._moId]["name"]): one for one in some if one._moId in found}
    return named


async def find_one(session: Session, root: Any, kind: type, name: str, setting: str) -> tuple[str, Any]:
    """The one of a name, or the only one, with its name."""
    found = await all_named(session, root, kind)
    if name:
        if name not in found:
            raise InvalidParameter(f"{setting} {name}: there is none of that name, but {_list(found)}")
        return name, found[name]
    if len(found) != 1:
        raise InvalidParameter(f"{setting} has to be said: there are {_list(found)}")
    return next(iter(found.items()))


async def find_pool(session: Session, hosts: Any, path: str) -> Any:
    """A resource pool by its path: COMPUTE, COMPUTE/Resources, COMPUTE/Resources/POOL..."""
    name, _, rest = path.partition("/")
    _, compute = await find_one(session, hosts, vim.ComputeResource, name, "--compute-resource")
    pool = await session.look("inventory", compute, "resourcePool")
    for part in rest.split("/"):
        if part in ("", "Resources"):
            continue
        below = await _by_name(session, await session.look("inventory", pool, "resourcePool") or ())
        if part not in below:
            raise InvalidParameter(f"--compute-resource {path}: there is no pool {part}, but {_list(below)}")
        pool = below[part]
    return pool


async def backing_of(session: Session, name: str, network: Any) -> Any:
    """What a NIC on a network is backed by."""
    nic = vim.vm.device.VirtualEthernetCard
    if not isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        return nic.NetworkBackingInfo(network=network, deviceName=name)
    switch = await session.look("inventory", network, "config.distributedVirtualSwitch")
    uuid = await session.look("inventory", switch, "uuid")
    key = await session.look("inventory", network, "key")
    return nic.DistributedVirtualPortBackingInfo(port=vim.dvs.PortConnection(portgroupKey=key, switchUuid=uuid))


async def tenant_folder(session: Session, root: Any, names: Names) -> Any:
    """The tenant's folder; made when it is not there. An ESXi has but one."""
    if not session.is_vcenter:
        return root
    folder = root
    for part in [*filter(None, names.folder.split("/")), names.tenant]:
        folder = await _child(session, folder, part)
    return folder


async def _child(session: Session, parent: Any, name: str) -> Any:
    for _ in range(2):
        children = await session.look("inventory", parent, "childEntity") or ()
        folders = await _by_name(session, [one for one in children if isinstance(one, vim.Folder)])
        if name in folders:
            return folders[name]
        try:
            return await session.change(f"folder {name}", parent.CreateFolder, name)
        except AlreadyThere:
            continue  # somebody was quicker
    raise InvalidParameter(f"folder {name}: there is something else of that name")


def _list(found: dict[str, Any]) -> str:
    return ", ".join(sorted(found)) or "none"
