"""Checks a vCenter or ESXi before the deployment of an appliance: reports all problems at once, each with a remedy."""

import datetime
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pyVmomi import vim

from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.appliances import Appliances
from appliance.hypervisor.vsphere.datastore import folders_are_objects
from appliance.hypervisor.vsphere.instantclones import why_none
from appliance.hypervisor.vsphere.inventory import backing_of, find_one, find_pool
from appliance.hypervisor.vsphere.session import Properties, Session
from appliance.hypervisor.vsphere.spec import NicBacking

T = TypeVar("T")

SERIAL_PORT = 2377
# VMware's name of the ruleset in ESXi's firewall that lets the serial ports of VMs connect.
FIREWALL_RULES = "vSPC"
_LICENSED = {"serialuri": "virtual serial port concentrator", "dvs": "distributed switches"}
_SKEW_SECONDS = 60
# The privileges that the appliance's account needs.
PRIVILEGES = (
    "Datastore.AllocateSpace", "Datastore.Browse", "Datastore.DeleteFile", "Datastore.FileManagement", "Folder.Create", "Folder.Delete",
    "Network.Assign", "Resource.AssignVMToPool", "VirtualMachine.Config.AddExistingDisk", "VirtualMachine.Config.AddNewDisk",
    "VirtualMachine.Config.AddRemoveDevice", "VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Config.EditDevice",
    "VirtualMachine.Config.RemoveDisk", "VirtualMachine.Config.Resource", "VirtualMachine.Config.Settings",
    "VirtualMachine.Interact.PowerOff", "VirtualMachine.Interact.PowerOn", "VirtualMachine.Interact.Suspend",
    "VirtualMachine.Inventory.Create", "VirtualMachine.Inventory.Delete",
)  # fmt: skip


_POOL_PRIVILEGES = ("VirtualMachine.Config.Rename", "VirtualMachine.Provisioning.Clone")
_GROUP_PRIVILEGES = ("Host.Inventory.EditCluster",)
_OBJECT_PRIVILEGES = ("Datastore.Config",)


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with a setting, and a remedy."""

    setting: str
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class PreflightRequest:
    """The operator's options, by names of the inventory. `networks` are the networks by role.

    `container_networks` are portgroups by the name of their Docker network.
    """

    name: str
    tenant: str
    datacenter: str
    compute_resource: str
    image_store: str
    volume_stores: Mapping[str, str]
    networks: Mapping[str, str]
    container_networks: Mapping[str, str]
    user: str
    # Properties that the operator has set.
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Places:
    """The managed objects that were found, networks by role. A field is empty when its object was not found."""

    datacenter: Any = None
    datacenter_name: str = ""
    machines: Any = None
    compute: Any = None
    compute_name: str = ""
    pool: Any = None
    datastore: Any = None
    datastore_name: str = ""
    # True on vSAN and vVols.
    folders_are_objects: bool = False
    networks: dict[str, vim.Network] = field(default_factory=dict)
    network_names: dict[str, str] = field(default_factory=dict)
    backings: dict[str, NicBacking] = field(default_factory=dict)


def _wants_pool(values: Mapping[str, str]) -> bool:
    return values.get("vm-pool", "0") != "0"


def privileges_for(values: Mapping[str, str], places: Places) -> tuple[str, ...]:
    """The privileges that the account of an appliance with these properties needs at these places."""
    pool = _POOL_PRIVILEGES if _wants_pool(values) else ()
    group = _GROUP_PRIVILEGES if values.get("vm-group") else ()
    return (*PRIVILEGES, *pool, *group, *(_OBJECT_PRIVILEGES if places.folders_are_objects else ()))


class Preflight:
    """One run of all checks. A problem prevents the deployment, a warning does not."""

    def __init__(self, appliances: Appliances, wanted: PreflightRequest) -> None:
        self._appliances = appliances
        self._session: Session = appliances.session
        self._wanted = wanted
        self.places = Places()
        self.problems: list[Finding] = []
        self.warnings: list[Finding] = []

    async def run(self) -> None:
        """Make all checks. HypervisorError when vSphere does not answer."""
        await self._find()
        for look in (
            self._look_at_names,
            self._look_at_networks,
            self._look_at_licences,
            self._look_at_cluster,
            self._look_at_hosts,
            self._look_at_privileges,
            self._look_at_clones,
            self._look_at_group,
        ):
            await look()

    async def _try(self, setting: str, remedy: str, finding: Awaitable[T]) -> T | None:
        try:
            return await finding
        except InvalidParameter as error:
            self.problems.append(Finding(setting, str(error).removeprefix(f"{setting} "), remedy))
            return None

    # -- finding objects -------------------------------------------------------------------------------------------

    async def find_compute(self) -> None:
        """Find datacenter, cluster and resource pool only."""
        session, wanted, places = self._session, self._wanted, self.places
        root = session.content.rootFolder
        found = await self._try(
            "--datacenter",
            "name one of them",
            find_one(session, root, vim.Datacenter, wanted.datacenter, "--datacenter"),
        )
        if found is None:
            return
        places.datacenter_name, places.datacenter = found
        hosts = await session.look("inventory", places.datacenter, "hostFolder")
        places.machines = await session.look("inventory", places.datacenter, "vmFolder")
        name = wanted.compute_resource.partition("/")[0]
        compute = await self._try(
            "--compute-resource",
            "name a cluster or host, or CLUSTER/POOL",
            find_one(session, hosts, vim.ComputeResource, name, "--compute-resource"),
        )
        if compute is not None:
            places.compute_name, places.compute = compute
            path = wanted.compute_resource or places.compute_name
            places.pool = await self._try(
                "--compute-resource", "name an existing resource pool", find_pool(session, hosts, path)
            )

    async def _find(self) -> None:
        session, wanted, places = self._session, self._wanted, self.places
        await self.find_compute()
        if places.datacenter is None:
            return
        stores = {"--image-store": wanted.image_store}
        stores |= {f"--volume-store {store}": datastore for store, datastore in wanted.volume_stores.items()}
        for setting, datastore in stores.items():
            store = await self._try(
                setting,
                "name one of these datastores",
                find_one(session, places.datacenter, vim.Datastore, datastore, setting),
            )
            if store is not None:
                await self._look_at_datastore(setting, *store)
                places.folders_are_objects |= await folders_are_objects(session, store[1])
                if setting == "--image-store":
                    places.datastore_name, places.datastore = store
        for role, network in wanted.networks.items():
            setting = f"--{role}-network"
            one = await self._find_network(setting, network)
            if one is not None:
                places.network_names[role], places.networks[role] = one
                places.backings[role] = await backing_of(session, *one)

        for name, portgroup in wanted.container_networks.items():
            setting = f"--container-network {name}"
            one = await self._find_network(setting, portgroup)
            if one is not None and one[1] == places.networks.get("bridge"):
                self.problems.append(
                    Finding(
                        setting,
                        f"{portgroup} is the bridge network",
                        "the bridge network is for one appliance alone: choose another portgroup",
                    )
                )

    async def _find_network(self, setting: str, name: str) -> tuple[str, Any] | None:
        finding = find_one(self._session, self.places.datacenter, vim.Network, name, setting)
        return await self._try(setting, "name one of these portgroups", finding)

    async def _look_at_datastore(self, setting: str, name: str, datastore: Any) -> None:
        facts = (
            await self._session.properties("datastore", [datastore], ["summary.accessible", "summary.freeSpace"])
        ).get(datastore._moId, Properties())
        if facts.get("summary.accessible") is False:
            self.problems.append(
                Finding(setting, f"{name} is not accessible", "choose another datastore, or repair this one")
            )
        elif setting == "--image-store" and 0 <= facts.get("summary.freeSpace", -1) < 2 << 30:
            free = facts["summary.freeSpace"] >> 20
            self.problems.append(
                Finding(
                    setting, f"{name} has {free} MiB left", "an appliance takes 2 GiB: make room, or choose another one"
                )
            )

    # -- checks ----------------------------------------------------------------------------------

    async def _look_at_names(self) -> None:
        wanted = self._wanted
        if self.places.pool is not None:
            below = await self._session.look("pools", self.places.pool, "resourcePool") or ()
            names = await self._session.properties("pools", below, ["name"])
            if any(facts["name"] == wanted.name for facts in names.values()):
                where = wanted.compute_resource or self.places.compute_name
                self.problems.append(
                    Finding(
                        "--name",
                        f"the resource pool {where}/{wanted.name} exists already",
                        "choose another name, or remove the pool",
                    )
                )
        for other in await self._appliances.all():
            if other.name == wanted.name:
                self.problems.append(
                    Finding(
                        "--name",
                        f"there is an appliance {other.name}",
                        f"choose another name, or: vch delete {other.name}",
                    )
                )
            elif other.tenant == wanted.tenant:
                self.problems.append(
                    Finding("--tenant", f"{wanted.tenant} is the tenant of {other.name}", "choose another tenant")
                )
            bridge = self.places.network_names.get("bridge")
            if bridge and other.values.get("bridge-network") == bridge:
                self.problems.append(
                    Finding(
                        "--bridge-network",
                        f"{bridge} is the bridge network of appliance {other.name}",
                        "make a portgroup for this one alone",
                    )
                )

    async def _look_at_networks(self) -> None:
        places = self.places
        bridge = places.networks.get("bridge")
        if bridge is None:
            return
        name = places.network_names["bridge"]
        for role, network in places.networks.items():
            if role != "bridge" and network == bridge:
                self.problems.append(
                    Finding(
                        "--bridge-network",
                        f"{name} is the {role} network too",
                        "containers need a portgroup of their own",
                    )
                )
        if self._session.is_vcenter and not isinstance(bridge, vim.dvs.DistributedVirtualPortgroup):
            hosts = await self._session.look("hosts", places.compute, "host") if places.compute is not None else ()
            if len(hosts or ()) > 1:
                self.problems.append(
                    Finding(
                        "--bridge-network",
                        f"{name} is a portgroup of standard switches, which do not connect the {len(hosts)} hosts",
                        "use a portgroup of a distributed switch, so that containers of all hosts are on one network",
                    )
                )

    async def _look_at_licences(self) -> None:
        """Check that a licence on the server has each feature that the appliance needs."""
        manager = self._session.content.licenseManager
        if manager is None:
            return
        missing = dict(_LICENSED)
        if not self._session.is_vcenter:
            del missing["dvs"]
        for one in await self._session.look("licences", manager, "licenses") or ():
            for fact in one.properties or ():
                if fact.key == "feature":
                    missing.pop(fact.value.key.partition(":")[0], None)
        for feature, what in missing.items():
            self.problems.append(
                Finding("licence", f"no licence has the feature {feature} ({what})", "assign a licence that has it")
            )

    async def _look_at_cluster(self) -> None:
        compute = self.places.compute
        if not isinstance(compute, vim.ClusterComputeResource):
            return
        if await self._session.look("cluster", compute, "configurationEx.drsConfig.enabled") is False:
            self.warnings.append(
                Finding(
                    "--compute-resource",
                    f"DRS is off in {self.places.compute_name}: containers stay on the host on which they started",
                    "turn it on",
                )
            )

    async def hosts(self) -> list[tuple[str, Any]]:
        """The hosts of the cluster, with their names."""
        if self.places.compute is None:
            return []
        hosts = await self._session.look("hosts", self.places.compute, "host") or ()
        names = await self._session.properties("hosts", hosts, ["name"])
        return [(str(names[host._moId]["name"]), host) for host in hosts if host._moId in names]

    async def _look_at_hosts(self) -> None:
        session = self._session
        for name, host in await self.hosts():
            firewall = await session.look("firewall", host, "configManager.firewallSystem")
            if firewall is not None and not allows(await session.look("firewall", firewall, "firewallInfo")):
                self.problems.append(
                    Finding(
                        "firewall",
                        f"the firewall of host {name} blocks serial ports to {SERIAL_PORT}/tcp",
                        "vch update firewall --allow",
                    )
                )
            clock = await session.look("clock", host, "configManager.dateTimeSystem")
            if clock is None:
                continue
            try:
                there = await session.read("clock", clock.QueryDateTime)
            except HypervisorError:
                continue  # the host does not answer
            apart = abs((there - datetime.datetime.now(datetime.UTC)).total_seconds())
            if apart > _SKEW_SECONDS:
                self.warnings.append(
                    Finding(
                        "time",
                        f"host {name} and this machine are {apart:.0f} s apart",
                        "certificates may not be valid yet there: set up NTP",
                    )
                )

    async def _look_at_privileges(self) -> None:
        session, places = self._session, self.places
        manager = session.content.authorizationManager
        if places.datacenter is None or manager is None or not session.is_vcenter:
            return
        found = await session.read(
            "privileges",
            manager.HasUserPrivilegeOnEntities,
            [places.datacenter],
            self._wanted.user,
            list(privileges_for(self._wanted.values, places)),
        )
        missing = [one.privId for entity in found for one in entity.privAvailability if not one.isGranted]
        if missing:
            self.problems.append(
                Finding(
                    "--ops-user",
                    f"{self._wanted.user} lacks on {places.datacenter_name}: {', '.join(missing)}",
                    "--ops-grant-perms gives what is needed, with an administrator's account",
                )
            )

    async def _look_at_clones(self) -> None:
        reason = why_none(self._session)
        if _wants_pool(self._wanted.values) and reason:
            self.problems.append(Finding("--container-pool", reason, "leave it out"))

    async def _look_at_group(self) -> None:
        name = self._wanted.values.get("vm-group")
        if not name or self.places.pool is None:
            return
        group = self._appliances.group(self.places.pool, name)
        await self._try("--vm-group", "name a cluster by --compute-resource, or another group", group.exists())


def allows(info: Any) -> bool:
    """Whether a host's firewall lets serial ports connect to the concentrator."""
    if info is None or (info.defaultPolicy is not None and info.defaultPolicy.outgoingBlocked is False):
        return True
    for rules in info.ruleset or ():
        if not rules.enabled:
            continue
        for rule in rules.rule or ():
            last = rule.endPort or rule.port
            if rule.direction == "outbound" and rule.protocol == "tcp" and rule.port <= SERIAL_PORT <= last:
                return True
    return False
