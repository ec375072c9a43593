"""Machines that wait for containers: InstantClones of one that was booted, which share its memory until they write to it.

vSphere API: VirtualMachine.InstantClone_Task, of a vCenter from 6.7 on. A clone runs from the moment that its parent was in.
It has no disks and no NICs: it gets its container's, plugged in, when it is somebody's.
"""

import logging
import secrets
from dataclasses import replace
from pathlib import Path

import trio

from appliance.errors import HypervisorError, InvalidParameter, leaves
from appliance.hypervisor.disks import SCRATCH
from appliance.hypervisor.driver import Disk, Machine, MachineSpec, Rehearsal
from appliance.hypervisor.vsphere.driver import VsphereDriver
from appliance.hypervisor.vsphere.machine import VsphereMachine
from appliance.hypervisor.vsphere.session import INSTANT_CLONES, Session
from appliance.hypervisor.vsphere.spec import BLANK, PARENT

log = logging.getLogger(__name__)

_MAKE_SECONDS = 300.0
# After a failure nothing is tried for a while: machines boot meanwhile.
_PAUSE = 300.0


def why_none(session: Session) -> str:
    """Why a server has no InstantClones; "" when it has."""
    if session.is_vcenter and session.api_version >= INSTANT_CLONES:
        return ""
    return f"InstantClones are a vCenter's from 6.7 on, and this is {session.describe()}"


class InstantClones:
    """A Cloning. `run` has parents, as long as it runs; those of an earlier daemon are removed when machines are adopted."""

    def __init__(self, driver: VsphereDriver, rehearsal: Rehearsal) -> None:
        """InvalidParameter when the server has no such thing."""
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
            # Whatever it is, the next one may be had from a new parent.
            self._give_up(kind)
            raise

    def _give_up(self, kind: MachineSpec) -> None:
        if (scope := self._given_up.get(kind)) is not None:
            scope.cancel()

    async def run(self) -> None:
        """Make what is wanted, and keep it, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._news = trio.Event()
                for kind in self._wanted:
                    scope = self._given_up[kind] = trio.CancelScope()
                    nursery.start_soon(self._keep, kind, scope)
                self._wanted.clear()
                await self._news.wait()

    async def _keep(self, kind: MachineSpec, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._have_parent(kind)
        except Exception as error:
            # Whatever it is, machines can boot instead.
            reasons = "; ".join(str(leaf) or repr(leaf) for leaf in leaves(error))
            log.warning("no machine of %d MiB to clone others from: %s", kind.memory_mib, reasons)
        finally:
            del self._given_up[kind]
            self._not_before[kind] = trio.current_time() + _PAUSE

    async def _have_parent(self, kind: MachineSpec) -> None:
        """Boot one, rehearse, take its disks from it, and have it as long as its guest answers."""
        driver = self._driver
        parent_id = PARENT + secrets.token_hex(8)
        # A path that names a disk on the datastore; there is no file.
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
                # With the line open: a guest that knows itself alone looks for company only now and then.
                async with self._rehearsal.perform(line, kind, machine.guest_disks()) as ended:
                    await driver.take_disks_from(machine.reference, own=True)
                    limit.deadline = float("inf")
                    log.info("machine to clone others from made in %.1f s", trio.current_time() - started)
                    with driver.concentrator.expecting_clones(machine.serial):
                        self._parents[kind] = machine
                        await ended.wait()
            raise HypervisorError("it has ended")
        finally:
            self._parents.pop(kind, None)
            with trio.CancelScope(shield=True):
                if machine is not None:
                    await machine.destroy()
                await driver.disks.remove(upper)


def _plain(kind: MachineSpec) -> MachineSpec:
    """What of a kind counts: NICs are plugged in later, as disks are."""
    return MachineSpec("", kind.memory_mib, kind.cpus)
