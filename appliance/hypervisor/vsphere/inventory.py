"""The managed objects that a tenant's VMs use: datacenter, pool, folder, datastores, networks, found by their names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pyVmomi import vim
from pyVmomi.VmomiSupport import ManagedObject

from appliance.errors import InvalidParameter
from appliance.hypervisor.driver import Nic
from appliance.hypervisor.vsphere.faults import AlreadyThere
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import NicBacking

M = TypeVar("M", bound=ManagedObject)


@dataclass(frozen=True, slots=True)
class DatastoreLocation:
    """A datastore with its datacenter, and the names of both, as paths of files need them."""

    datacenter: vim.Datacenter
    datacenter_name: str
    datastore: vim.Datastore
    name: str


@dataclass(frozen=True, slots=True)
class Names:
    """The names that the operator configured. An empty name stands for the only object of its type.

    `pool` is a path below the folder of hosts: COMPUTE/Resources/POOL.
    """

    tenant: str
    datacenter: str = ""
    pool: str = ""
    folder: str = ""
    datastore: str = ""
    bridge: str = ""
    # The template for VM names: see spec.check_names.
    machines: str = "{name}-{id}"
    # Further portgroups for containers, by name.
    portgroups: tuple[str, ...] = ()
    # Volume stores: the name of the store and the name of its datastore.
    volume_stores: tuple[tuple[str, str], ...] = ()
    # The DRS group of the VMs: see groups. "" is no group.
    group: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """The managed objects of those names. VMs are created in `folder`: the tenant's own folder on a vCenter, the only folder of an ESXi."""

    datacenter: vim.Datacenter
    datacenter_name: str
    pool: vim.ResourcePool
    folder: vim.Folder
    datastore: vim.Datastore
    datastore_name: str
    # The backing of a NIC on the bridge network, and on each further portgroup by its name.
    backing: NicBacking
    portgroups: dict[str, NicBacking]
    # By the volume store's name: the datastore and the datastore's name.
    volume_stores: dict[str, tuple[vim.Datastore, str]]

    def backing_of(self, nic: Nic) -> NicBacking:
        """The backing of a NIC. A NIC's bridge is the name of a portgroup, or a bridge of the host, which is on the bridge network."""
        return self.portgroups.get(nic.bridge, self.backing)

    def location(self, datastore: vim.Datastore, name: str) -> DatastoreLocation:
        """The location of one of the datastores."""
        return DatastoreLocation(self.datacenter, self.datacenter_name, datastore, name)


async def find(session: Session, names: Names) -> Inventory:
    """Find every object. InvalidParameter names the setting whose object does not exist, and the objects that exist."""
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


async def all_named(session: Session, root: ManagedObject, kind: type[M]) -> dict[str, M]:
    """All objects of a type below `root`, by name."""
    content = session.content
    view = await session.change("inventory", content.viewManager.CreateContainerView, root, [kind], True)
    try:
        return await _by_name(session, await session.look("inventory", view, "view") or ())
    finally:
        await session.change("inventory", view.DestroyView)


async def _by_name(session: Session, objects: Sequence[M]) -> dict[str, M]:
    """Objects of one or several types, by name."""
    named: dict[str, M] = {}
    for kind in {type(one) for one in objects}:
        some = [one for one in objects if type(one) is kind]
        found = await session.properties("inventory", some, ["name"])
        named |= {str(found[one._moId]["name"]): one for one in some if one._moId in found}
    return named


async def find_one(session: Session, root: ManagedObject, kind: type[M], name: str, setting: str) -> tuple[str, M]:
    """The object of this name, or the only object of its type, with its name. InvalidParameter when there is no such object."""
    found = await all_named(session, root, kind)
    if name:
        if name not in found:
            raise InvalidParameter(f"{setting} {name}: no such object; there are {_list(found)}")
        return name, found[name]
    if len(found) != 1:
        raise InvalidParameter(f"{setting} is required; choose one of {_list(found)}")
    return next(iter(found.items()))


async def find_pool(session: Session, hosts: vim.Folder, path: str) -> vim.ResourcePool:
    """A resource pool by its path: COMPUTE, COMPUTE/Resources, COMPUTE/Resources/POOL..."""
    name, _, rest = path.partition("/")
    _, compute = await find_one(session, hosts, vim.ComputeResource, name, "--compute-resource")
    pool: vim.ResourcePool = await session.look("inventory", compute, "resourcePool")
    for part in rest.split("/"):
        if part in ("", "Resources"):
            continue
        below = await _by_name(session, await session.look("inventory", pool, "resourcePool") or ())
        if part not in below:
            raise InvalidParameter(f"--compute-resource {path}: no resource pool {part}; there are {_list(below)}")
        pool = below[part]
    return pool


async def backing_of(session: Session, name: str, network: vim.Network) -> NicBacking:
    """The backing of a NIC on a network."""
    nic = vim.vm.device.VirtualEthernetCard
    if not isinstance(network, vim.dvs.DistributedVirtualPortgroup):
        return nic.NetworkBackingInfo(network=network, deviceName=name)
    switch = await session.look("inventory", network, "config.distributedVirtualSwitch")
    uuid = await session.look("inventory", switch, "uuid")
    key = await session.look("inventory", network, "key")
    return nic.DistributedVirtualPortBackingInfo(port=vim.dvs.PortConnection(portgroupKey=key, switchUuid=uuid))


async def tenant_folder(session: Session, root: vim.Folder, names: Names) -> vim.Folder:
    """The tenant's folder, created when it does not exist. An ESXi has one folder only, and it is `root`."""
    if not session.is_vcenter:
        return root
    folder = root
    for part in [*filter(None, names.folder.split("/")), names.tenant]:
        folder = await _child(session, folder, part)
    return folder


async def _child(session: Session, parent: vim.Folder, name: str) -> vim.Folder:
    for _ in range(2):
        children = await session.look("inventory", parent, "childEntity") or ()
        folders = await _by_name(session, [one for one in children if isinstance(one, vim.Folder)])
        if name in folders:
            return folders[name]
        try:
            return await session.change(f"folder {name}", parent.CreateFolder, name)
        except AlreadyThere:
            continue  # another client was faster
    raise InvalidParameter(f"folder {name}: another object has that name")


def _list(found: Iterable[str]) -> str:
    return ", ".join(sorted(found)) or "none"
