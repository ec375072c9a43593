"""A DRS group of VMs. An operator's rules for the group say on which hosts its VMs may run.

vSphere API: ComputeResource.ReconfigureComputeResource_Task with a ClusterGroupSpec. vSphere takes a removed VM out of the group.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from pyVmomi import vim

from appliance.errors import InvalidParameter
from appliance.hypervisor.vsphere.session import Session

# Makes a change once: a name for error texts, the call, and a check whether the change was made already. See Changes.make.
Change = Callable[[str, Callable[..., Any], Callable[[], Awaitable[bool]]], Awaitable[None]]
_Operation = vim.option.ArrayUpdateSpec.Operation


class MachineGroup:
    """The group of this name in the cluster that owns a resource pool."""

    def __init__(self, session: Session, change: Change, pool: vim.ResourcePool, name: str) -> None:
        self.name = name
        self._session = session
        self._change = change
        self._pool = pool
        self._cluster: vim.ClusterComputeResource | None = None
        self._joining: dict[str, vim.VirtualMachine] = {}
        self._turn = trio.Lock()

    async def exists(self) -> bool:
        """Whether the group exists. InvalidParameter when the pool is not in a cluster, or a host group has this name."""
        return await self._members() is not None

    async def _find_cluster(self) -> vim.ClusterComputeResource:
        if self._cluster is None:
            owner = await self._session.look("group", self._pool, "owner")
            if not isinstance(owner, vim.ClusterComputeResource):
                raise InvalidParameter(
                    f"--vm-group {self.name}: groups need a cluster, and this compute resource is not a cluster"
                )
            self._cluster = owner
        return self._cluster

    async def _members(self) -> list[vim.VirtualMachine] | None:
        cluster = await self._find_cluster()
        groups = await self._session.look("group", cluster, "configurationEx.group") or ()
        for group in groups:
            if group.name == self.name:
                if not isinstance(group, vim.cluster.VmGroup):
                    raise InvalidParameter(
                        f"--vm-group {self.name}: the cluster's group of that name is a group of hosts"
                    )
                return list(group.vm or ())
        return None

    async def make(self) -> None:
        """Create the group, unless it exists."""
        if not await self.exists():
            await self._reconfigure("create", _Operation.add, [], self.exists)

    async def remove_unless_used(self) -> None:
        """Remove the group, unless it has members."""
        members = await self._members()

        async def gone() -> bool:
            return not await self.exists()

        if members is not None and not await self._session.properties("group", members, ["name"]):
            await self._reconfigure("remove", _Operation.remove, [], gone)

    async def add(self, machine: vim.VirtualMachine) -> None:
        """Add a VM. VMs that come at the same time are added by one call, because each call writes the whole list of members."""
        self._joining[machine._moId] = machine
        try:
            async with self._turn:
                if machine._moId in self._joining:
                    joining = dict(self._joining)
                    await self._join(joining)
                    for key in joining:
                        self._joining.pop(key, None)
        finally:
            self._joining.pop(machine._moId, None)

    async def _join(self, joining: dict[str, vim.VirtualMachine]) -> None:
        before = await self._members()
        members = {one._moId: one for one in before or ()} | joining

        async def joined() -> bool:
            return joining.keys() <= {one._moId for one in await self._members() or ()}

        operation = _Operation.edit if before is not None else _Operation.add
        await self._reconfigure("add to", operation, list(members.values()), joined)

    async def _reconfigure(
        self, what: str, operation: str, members: list[vim.VirtualMachine], done: Callable[[], Awaitable[bool]]
    ) -> None:
        group = vim.cluster.GroupSpec(operation=operation)
        if operation == _Operation.remove:
            group.removeKey = self.name
        else:
            group.info = vim.cluster.VmGroup(name=self.name, vm=members)
        spec = vim.cluster.ConfigSpecEx(groupSpec=[group])
        method = partial((await self._find_cluster()).ReconfigureComputeResource_Task, spec, True)
        await self._change(f"{what} group {self.name}", method, done)
