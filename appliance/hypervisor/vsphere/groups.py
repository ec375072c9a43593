"""A DRS group of machines: an operator's rules say by its name on which hosts those that are in it may run.

vSphere API: ComputeResource.ReconfigureComputeResource_Task with a ClusterGroupSpec. A machine that is removed leaves it by itself.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from pyVmomi import vim

from appliance.errors import InvalidParameter
from appliance.hypervisor.vsphere.session import Session

# Carries out a change: what it is, the call, whether it has been done already.
Change = Callable[[str, Callable[..., Any], Callable[[], Awaitable[bool]]], Awaitable[None]]
_Operation = vim.option.ArrayUpdateSpec.Operation


class MachineGroup:
    """The group of a name in the cluster that a pool is of."""

    def __init__(self, session: Session, change: Change, pool: Any, name: str) -> None:
        self.name = name
        self._session = session
        self._change = change
        self._pool = pool
        self._cluster: Any = None
        self._joining: dict[str, Any] = {}
        self._turn = trio.Lock()

    async def exists(self) -> bool:
        """Whether there is one. InvalidParameter where there cannot be any."""
        return await self._members() is not None

    async def _members(self) -> list[Any] | None:
        if self._cluster is None:
            owner = await self._session.look("group", self._pool, "owner")
            if not isinstance(owner, vim.ClusterComputeResource):
                raise InvalidParameter(f"--vm-group {self.name}: groups of machines are a cluster's, and this is none")
            self._cluster = owner
        groups = await self._session.look("group", self._cluster, "configurationEx.group") or ()
        for group in groups:
            if group.name == self.name:
                if not isinstance(group, vim.cluster.VmGroup):
                    raise InvalidParameter(f"--vm-group {self.name}: the cluster's group of that name is one of hosts")
                return list(group.vm or ())
        return None

    async def make(self) -> None:
        """Unless it is there."""
        if not await self.exists():
            await self._reconfigure("make", _Operation.add, [], self.exists)

    async def remove_unless_used(self) -> None:
        """If it is there, and no machine in it."""
        members = await self._members()

        async def gone() -> bool:
            return not await self.exists()

        if members is not None and not await self._session.properties("group", members, ["name"]):
            await self._reconfigure("remove", _Operation.remove, [], gone)

    async def add(self, machine: Any) -> None:
        """Have a machine in it. Those that come together are added by one call: each writes the whole list."""
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

    async def _join(self, joining: dict[str, Any]) -> None:
        there = await self._members()
        members = {one._moId: one for one in there or ()} | joining

        async def joined() -> bool:
            return joining.keys() <= {one._moId for one in await self._members() or ()}

        operation = _Operation.edit if there is not None else _Operation.add
        await self._reconfigure("add to", operation, list(members.values()), joined)

    async def _reconfigure(
        self, what: str, operation: str, members: list[Any], done: Callable[[], Awaitable[bool]]
    ) -> None:
        group = vim.cluster.GroupSpec(operation=operation)
        if operation == _Operation.remove:
            group.removeKey = self.name
        else:
            group.info = vim.cluster.VmGroup(name=self.name, vm=members)
        spec = vim.cluster.ConfigSpecEx(groupSpec=[group])
        method = partial(self._cluster.ReconfigureComputeResource_Task, spec, True)
        await self._change(f"{what} group {self.name}", method, done)
