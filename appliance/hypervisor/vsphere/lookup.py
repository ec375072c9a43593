"""A tenant's VMs in the inventory: each is found by keys that were written when the VM was created."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from pyVmomi import vim

from appliance.hypervisor.driver import MachineSpec
from appliance.hypervisor.vsphere.inventory import Inventory
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import MACHINE_KEY, SPEC_KEY, TENANT_KEY, decode, uuid_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundMachine:
    """A VM in the inventory: what it was made of, the URI of its serial port, vCenter's UUID of it ("" while unknown)."""

    reference: vim.VirtualMachine
    spec: MachineSpec
    serial: str
    uuid: str


class TenantMachines:
    """Finds the VMs of one tenant."""

    def __init__(self, session: Session, inventory: Inventory, tenant: str) -> None:
        self._session = session
        self._inventory = inventory
        self._tenant = tenant

    async def find(self, machine_id: str, *, cloned: bool) -> FoundMachine | None:
        """Find a VM by its id. A clone has its key as the BIOS UUID, because vCenter chooses the instance UUID."""
        search = self._session.content.searchIndex
        uuid = uuid_of(self._tenant, machine_id)
        found = await self._session.read(
            "look for a machine", search.FindAllByUuid, self._inventory.datacenter, uuid, True, not cloned
        )
        return next((one for one in await self.among(found or ()) if one.spec.id == machine_id), None)

    async def among(self, references: Sequence[vim.VirtualMachine]) -> list[FoundMachine]:
        """The tenant's VMs among these. A VM whose keys were changed to something else is left out."""
        found = []
        paths = ["config.extraConfig", "config.instanceUuid"]
        by_id = await self._session.properties("look at machines", references, paths)
        for reference in references:
            if (properties := by_id.get(reference._moId)) is None:
                continue
            values = {one.key: one.value for one in properties.get("config.extraConfig") or ()}
            if values.get(TENANT_KEY) != self._tenant:
                continue
            try:
                spec, serial = decode(values.get(SPEC_KEY, ""))
            except ValueError as error:
                log.warning("the stored spec of machine %s cannot be read: %s", values.get(MACHINE_KEY), error)
                continue
            if spec.id == values.get(MACHINE_KEY):
                found.append(FoundMachine(reference, spec, serial, str(properties.get("config.instanceUuid"))))
        return found
