"""Waiting machines as InstantClones: running copies of a parent VM, which share the parent's memory until they write to it.

vSphere API: VirtualMachine.InstantClone_Task, of a vCenter from 6.7 on. A clone runs on from the parent's state at that moment.
A clone has neither disks nor NICs: both are plugged in when the clone becomes a container's machine.
"""

import logging
import secrets
from dataclasses import replace
from pathlib import Path

import trio

from appliance.errors import HypervisorError, InvalidParameter, leaves
from appliance.hypervisor.capabilities import Rehearsal
from appliance.hypervisor.disks import SCRATCH
from appliance.hypervisor.driver import Disk, Machine, MachineSpec
from appliance.hypervisor.vsphere.driver import VsphereDriver
from appliance.hypervisor.vsphere.machine import VsphereMachine
from appliance.hypervisor.vsphere.session import INSTANT_CLONES, Session
from appliance.hypervisor.vsphere.spec import BLANK, PARENT

log = logging.getLogger(__name__)

_MAKE_SECONDS = 300.0
# After a failure no parent is made for a while. Machines boot meanwhile.
_PAUSE = 300.0


def why_none(session: Session) -> str:
    """Why a server cannot make InstantClones; "" when it can."""
    if session.is_vcenter and session.api_version >= INSTANT_CLONES:
        return ""
    return f"InstantClones need a vCenter of version 6.7 or later; this server is {session.describe()}"


class InstantClones:
    """The Cloning of this driver. `run` makes parents and keeps them. `adopt` removes the parents of an earlier daemon."""

    def __init__(self, driver: VsphereDriver, rehearsal: Rehearsal) -> None:
        """InvalidParameter when the server cannot make InstantClones."""
        if reason := why_none(driver.session):
            raise InvalidParameter(f"--vm-pool: {reason}")
        self._driver = driver
        self._rehearsal = rehearsal
        self._parents: dict[MachineSpec, VsphereMachine] = {}
        self._wanted: dict[MachineSpec, None] = {}
        self._not_before: dict[MachineSpec, float] = {}
        self._given_up: dict[MachineSpec, trio.CancelScope] = {}
        self._news = trio.Event()

    def want(self, kind: MachineSpec) -> None:
        """See Cloning."""
        kind = _plain(kind)
        if kind not in self._given_up and trio.current_time() >= self._not_before.get(kind, 0):
            self._wanted[kind] = None
            self._news.set()

    async def create_blank(self, kind: MachineSpec) -> Machine | None:
        """See Cloning."""
        kind = _plain(kind)
        parent = self._parents.get(kind)
        if parent is None:
            self.want(kind)
            return None
        try:
            return await self._driver.clone(parent, replace(kind, id=BLANK + secrets.token_hex(8)))
        except HypervisorError:
            # A new parent may mend what went wrong.
            self._give_up(kind)
            raise

    def _give_up(self, kind: MachineSpec) -> None:
        if (scope := self._given_up.get(kind)) is not None:
            scope.cancel()

    async def run(self) -> None:
        """Make a parent for each wanted kind, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                for kind in self._wanted:
                    scope = self._given_up[kind] = trio.CancelScope()
                    nursery.start_soon(self._hold_parent, kind, scope)
                self._wanted.clear()
                await self._news.wait()

    async def _hold_parent(self, kind: MachineSpec, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._make_parent(kind)
        except Exception as error:
            # Without a parent, machines boot.
            reasons = "; ".join(str(leaf) or repr(leaf) for leaf in leaves(error))
            log.warning("no parent of %d MiB for InstantClones: %s", kind.memory_mib, reasons)
        finally:
            del self._given_up[kind]
            self._not_before[kind] = trio.current_time() + _PAUSE

    async def _make_parent(self, kind: MachineSpec) -> None:
        """Boot a parent, rehearse, detach its disks, and keep it as long as its guest answers."""
        driver = self._driver
        parent_id = PARENT + secrets.token_hex(8)
        # The path names a disk on the datastore. It is not a file of this host.
        upper = Path(parent_id, "upper")
        started = trio.current_time()
        await driver.disks.create(upper, SCRATCH)
        machine: VsphereMachine | None = None
        try:
            disks = (Disk(upper, False), Disk(self._rehearsal.layer, True))
            machine = await driver.make(replace(kind, id=parent_id, disks=disks), all_adapters=True)
            with trio.fail_after(_MAKE_SECONDS) as limit:
                await machine.start()
                line = await machine.dial_tether()
                # The line stays open: a guest without a line looks for a new one only now and then.
                async with self._rehearsal.perform(line, kind, machine.guest_disks()) as ended:
                    await driver.detach_kept_disks(machine.reference, destroy_own=True)
                    limit.deadline = float("inf")
                    log.info("parent for InstantClones made in %.1f s", trio.current_time() - started)
                    with driver.concentrator.expecting_clones(machine.serial):
                        self._parents[kind] = machine
                        await ended.wait()
            raise HypervisorError("the parent has ended")
        finally:
            self._parents.pop(kind, None)
            with trio.CancelScope(shield=True):
                if machine is not None:
                    await machine.destroy()
                await driver.disks.remove(upper)


def _plain(kind: MachineSpec) -> MachineSpec:
    """The part of a kind that matters for a parent: disks and NICs are plugged in later."""
    return MachineSpec("", kind.memory_mib, kind.cpus)
