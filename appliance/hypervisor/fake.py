"""Machines in memory: a driver that needs no hypervisor, for tests of the rooms above. It passes the contract of all drivers.

`FakeHost` stands for the hypervisor: it owns the VMs and outlives its drivers. A second `FakeDriver` on the same host is a
restarted appliance, which adopts the VMs. A test sees both ends of a machine's line: the driver dials the near end, and the host
gives the far end to `FakeHost.guest`, or, without a guest, to the test through `FakeVm.accept`.
"""

import json
import socket
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.capabilities import PlacementState, ResourceShares
from appliance.hypervisor.driver import (
    SHARE_TAG,
    Capacity,
    Disk,
    Driver,
    Forward,
    GuestDisk,
    Machine,
    MachineSpec,
    Nic,
    Power,
    ScsiAddress,
    Share,
    Usage,
    own_capacity,
)
from appliance.hypervisor.more_disks import find_disks, used_places, with_disks, without_first_disks, without_places
from tether.transport import Line

Guest = Callable[[MachineSpec, Line], Awaitable[None]]
"""Runs in a VM for each line that a driver dials. The VM powers off when it returns. LineClosed means that the dialler hung up."""

_MOST_MORE_NICS = 8


@dataclass(slots=True)
class Faults:
    """Failures to inject. A test may replace `FakeHost.faults` at any time; texts are those of the HypervisorError."""

    create: str = ""
    start: str = ""
    # Seconds that a start takes.
    start_seconds: float = 0.0
    dial: str = ""
    # `dial_tether` never returns.
    dial_hangs: bool = False
    # A dialled line opens, but nothing in the guest answers.
    silent: bool = False
    # The VM powers off so many seconds after its start.
    dies_after: float | None = None
    become: str = ""
    # Texts of failures of `plug_disks` and `plug_shares`, and of `release_disks`.
    plug: str = ""
    release: str = ""
    # The number of disks that a machine can take while it runs.
    disk_places: int = 255


class FakeHost:
    """The hypervisor. `nursery` runs the guests. `journal` lists what drivers did: ("start", "m1"), ("plug", "/path/of/disk")..."""

    def __init__(self, nursery: trio.Nursery, guest: Guest | None = None, faults: Faults | None = None) -> None:
        self.nursery = nursery
        self.guest = guest
        self.faults = faults or Faults()
        self.vms: dict[str, FakeVm] = {}
        self.journal: list[tuple[str, str]] = []

    def power_off(self, machine_id: str) -> None:
        """End a VM behind the driver's back, as a crash or an operator does."""
        self.vms[machine_id].power_off()


class FakeVm:
    """A VM of the host, which exists until a driver destroys it."""

    def __init__(self, host: FakeHost, spec: MachineSpec) -> None:
        self.spec = spec
        self.shares = ResourceShares()
        self.placement = PlacementState(spec.name, "host-1")
        self.background = False
        self.off = trio.Event()
        self.off.set()
        self.changed = trio.Event()
        self._host = host
        self._scope = trio.CancelScope()
        self._dialled, self._accepting = trio.open_memory_channel[Line](64)

    @property
    def on(self) -> bool:
        return not self.off.is_set()

    async def accept(self) -> Line:
        """The guest's end of the next line that a driver dials, in a host without a guest."""
        return await self._accepting.receive()

    async def power_on(self) -> None:
        faults = self._host.faults
        await trio.sleep(faults.start_seconds)
        if faults.start:
            raise HypervisorError(faults.start)
        if self.on:
            raise HypervisorError(f"machine {self.spec.id} is already on")
        self.off = trio.Event()
        if faults.dies_after is not None:
            self._host.nursery.start_soon(self._die, faults.dies_after, self.off)

    async def _die(self, seconds: float, off: trio.Event) -> None:
        with trio.move_on_after(seconds):
            await off.wait()
        if off is self.off:
            self.power_off()

    def power_off(self) -> None:
        """Power off now. The lines to the guest end."""
        self._scope.cancel()
        self.set_placement(suspended=False)
        self.off.set()

    def set_placement(self, **changes: bool | str) -> None:
        """Change name, host or `suspended`, as an operator does."""
        # mypy cannot match the types of keyword arguments with the fields.
        self.placement = replace(self.placement, **changes)  # type: ignore[arg-type]
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    def dial(self) -> Line:
        """A new line to the guest, instead of the earlier line."""
        self._scope.cancel()
        self._scope = trio.CancelScope()
        near, far = socket.socketpair()
        line = Line(far.detach())
        if self._host.guest is None and not self._host.faults.silent:
            self._dialled.send_nowait(line)
        else:
            self._host.nursery.start_soon(self._serve, line, self._scope)
        return Line(near.detach())

    async def _serve(self, line: Line, scope: trio.CancelScope) -> None:
        try:
            with scope:
                if self._host.guest is None or self._host.faults.silent:
                    await trio.sleep_forever()
                else:
                    await self._host.guest(self.spec, line)
                    self.power_off()
        finally:
            line.close()


class FakeMachine(Machine):
    """A driver's handle of a VM, with no more than the contract requires."""

    unmatched_nics = 0

    def __init__(self, host: FakeHost, vm: FakeVm) -> None:
        self.id = vm.spec.id
        self.vm = vm
        self._host = host

    @property
    def spec(self) -> MachineSpec:  # type: ignore[override]
        return self.vm.spec

    async def start(self) -> None:
        self._host.journal.append(("start", self.id))
        await self.vm.power_on()

    async def kill(self) -> None:
        self._host.journal.append(("kill", self.id))
        self.vm.power_off()

    async def wait_off(self) -> None:
        await self.vm.off.wait()

    async def destroy(self) -> None:
        self._host.journal.append(("destroy", self.id))
        self.vm.power_off()
        if self._host.vms.get(self.id) is self.vm:
            del self._host.vms[self.id]

    async def power(self) -> Power:
        return Power.ON if self.vm.on else Power.OFF

    async def dial_tether(self) -> Line:
        faults = self._host.faults
        if faults.dial_hangs:
            await trio.sleep_forever()
        if faults.dial:
            raise HypervisorError(faults.dial)
        if not self.vm.on:
            raise HypervisorError(f"machine {self.id} is off")
        return self.vm.dial()

    def guest_disks(self) -> list[GuestDisk]:
        return [GuestDisk(ScsiAddress(0, 0, lun)) for lun in range(len(self.spec.disks))]

    async def usage(self) -> Usage:
        return Usage(1_000_000, self.spec.memory_mib << 20) if self.vm.on else Usage(0, 0)

    def last_words(self) -> str:
        return ""


class VersatileMachine(FakeMachine):
    """A machine with every Protocol of `capabilities`."""

    async def plug_nic(self, nic: Nic) -> None:
        """See Pluggable."""
        more = list(self.spec.more_nics)
        if None in more:
            more[more.index(None)] = nic
        elif len(more) < _MOST_MORE_NICS:
            more.append(nic)
        else:
            raise HypervisorError(f"machine {self.id} has no free slot for a NIC")
        self.vm.spec = replace(self.spec, more_nics=tuple(more))

    async def unplug_nic(self, mac: str) -> None:
        """See Pluggable."""
        self._change_nic(mac, lambda _: None)

    async def set_forwards(self, mac: str, forwards: tuple[Forward, ...]) -> None:
        """See Pluggable."""
        self._change_nic(mac, lambda nic: replace(nic, forwards=forwards))

    def _change_nic(self, mac: str, change: Callable[[Nic], Nic | None]) -> None:
        nics = [self.spec.nic, *self.spec.more_nics]
        slot = next((slot for slot, nic in enumerate(nics) if nic is not None and nic.mac == mac), None)
        nic = nics[slot] if slot is not None else None
        if slot is None or nic is None:
            raise HypervisorError(f"machine {self.id} has no NIC {mac}")
        nics[slot] = change(nic)
        self.vm.spec = replace(self.spec, nic=nics[0], more_nics=tuple(nics[1:]))

    def free_disks(self) -> int:
        """See TakesDisks."""
        return self._host.faults.disk_places - used_places(self.spec)

    async def plug_disks(self, disks: Sequence[Disk]) -> list[GuestDisk]:
        """See TakesDisks."""
        await self._check_plug()
        self.vm.spec, places = with_disks(self.spec, disks, self._host.faults.disk_places)
        self._host.journal += [("plug", str(disk.path)) for disk in disks]
        return [GuestDisk(ScsiAddress(0, 1, place)) for place in places]

    def plugged_disks(self) -> dict[Path, GuestDisk]:
        """See TakesDisks."""
        return {disk.path: GuestDisk(ScsiAddress(0, 1, n)) for n, disk in enumerate(self.spec.more_disks) if disk}

    async def release_disks(self, paths: Collection[Path]) -> None:
        """See TakesDisks."""
        await trio.lowlevel.checkpoint()
        if self._host.faults.release:
            raise HypervisorError(self._host.faults.release)
        first, more = find_disks(self.spec, paths)
        found = [*(self.spec.disks[place] for place in first), *(self.spec.more_disks[place] for place in more)]
        self.vm.spec = without_places(without_first_disks(self.spec, first), more)
        self._host.journal += [("release", str(disk.path)) for disk in found if disk]

    def why_no_more_shares(self) -> str:
        """See TakesShares."""
        return "" if self.spec.shares or self.spec.grows else "the machine has no shared memory"

    async def plug_shares(self, shares: tuple[Share, ...]) -> str:
        """See TakesShares."""
        await self._check_plug()
        if reason := self.why_no_more_shares():
            raise HypervisorError(reason)
        self.vm.spec = replace(self.spec, more_shares=(*self.spec.more_shares, shares))
        tag = f"{SHARE_TAG}{len(self.spec.more_shares)}"
        self._host.journal.append(("share", tag))
        return tag

    async def _check_plug(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._host.faults.plug:
            raise HypervisorError(self._host.faults.plug)
        if not self.vm.on:
            raise HypervisorError(f"machine {self.id} is off")

    @property
    def placement(self) -> PlacementState:
        """See Suspendable."""
        return self.vm.placement

    async def wait_changed(self, than: PlacementState) -> PlacementState:
        """See Suspendable."""
        while self.vm.placement == than:
            await self.vm.changed.wait()
        return self.vm.placement

    async def host_name(self, host: str) -> str:
        """See Suspendable."""
        return f"{host}.fake"

    async def suspend(self) -> None:
        """See Suspendable."""
        if not self.vm.on:
            raise HypervisorError(f"machine {self.id} is off")
        self.vm.set_placement(suspended=True)

    async def resume(self) -> None:
        """See Suspendable."""
        self.vm.set_placement(suspended=False)

    async def set_shares(self, shares: ResourceShares) -> None:
        """See SetShares."""
        self.vm.shares = shares

    def in_background(self, background: bool) -> None:
        """See Adaptable."""
        self.vm.background = background

    async def become(self, spec: MachineSpec) -> None:
        """See Adaptable."""
        if self._host.faults.become:
            raise HypervisorError(self._host.faults.become)
        if not self.vm.on:
            raise HypervisorError(f"machine {self.id} is off")
        self._host.journal.append(("become", spec.id))
        self._host.vms.pop(self.id, None)
        self.vm.spec, self.id = spec, spec.id
        self._host.vms[spec.id] = self.vm

    async def save_to(self, folder: Path, at_rest: Callable[[], None], *, go_on: bool) -> None:
        """See Checkpointable. The saved state is the machine's id: the guest keeps its own state outside of the VM."""
        if not self.vm.on:
            raise HypervisorError(f"machine {self.id} is off")
        at_rest()
        (folder / "state").write_text(json.dumps({"id": self.id}))
        if not go_on:
            self.vm.power_off()

    async def start_from(self, folder: Path) -> None:
        """See Checkpointable."""
        try:
            saved = json.loads((folder / "state").read_text())["id"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HypervisorError(f"the saved state is damaged: {error}") from error
        if saved != self.id:
            raise HypervisorError(f"the state was saved from machine {saved}")
        await self.start()


class FakeDriver(Driver):
    """A driver of the host's VMs. `machine` is the class of its machines: FakeMachine, or VersatileMachine for the Protocols."""

    def __init__(self, host: FakeHost, machine: type[FakeMachine] = FakeMachine) -> None:
        self._host = host
        self._machine = machine

    async def connect(self) -> None:
        pass

    async def create(self, spec: MachineSpec) -> FakeMachine:
        if self._host.faults.create:
            raise HypervisorError(self._host.faults.create)
        self._host.journal.append(("create", spec.id))
        vm = self._host.vms[spec.id] = FakeVm(self._host, spec)
        return self._machine(self._host, vm)

    async def adopt(self) -> list[Machine]:
        return [self._machine(self._host, vm) for vm in self._host.vms.values()]

    async def capacity(self) -> Capacity:
        return own_capacity()

    def describe(self) -> dict[str, str]:
        return {"Driver": "fake"}


class CloningDriver(FakeDriver):
    """A driver that is also Cloning: a machine of a kind can be had once that kind was wanted."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host, VersatileMachine)
        self._kinds: set[MachineSpec] = set()
        self._clones = 0

    def want(self, kind: MachineSpec) -> None:
        """See Cloning."""
        self._kinds.add(kind)

    async def create_blank(self, kind: MachineSpec) -> Machine | None:
        """See Cloning."""
        if kind not in self._kinds:
            self.want(kind)
            return None
        self._clones += 1
        machine = await self.create(replace(kind, id=f"blank{self._clones}"))
        await machine.start()
        return machine
