"""Machines without bodies: the driver's contract in memory, for whoever wants to try the rooms above without a hypervisor.

A machine's guest is a coroutine on the far end of its line. It passes the same contract tests as the real drivers.
"""

import socket
from collections.abc import Awaitable, Callable

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import DiskAddress, Driver, Machine, MachineSpec, Power, Usage
from tether.transport import Line

Guest = Callable[[MachineSpec, Line], Awaitable[None]]
"""What runs in a machine for each dialled line; when it returns the machine powers off. LineClosed is the dialler's end."""


class FakeHost:
    """Where the machines live; outlives its drivers as a hypervisor does. `nursery` owns the guests."""

    def __init__(self, nursery: trio.Nursery, guest: Guest) -> None:
        self.nursery = nursery
        self.guest = guest
        self.machines: dict[str, FakeMachine] = {}


class FakeMachine(Machine):
    def __init__(self, host: FakeHost, spec: MachineSpec) -> None:
        self.id = spec.id
        self.spec = spec
        self._host = host
        self._off = trio.Event()
        self._off.set()
        self._line: Line | None = None
        self._scope = trio.CancelScope()

    async def start(self) -> None:
        if not self._off.is_set():
            raise HypervisorError(f"machine {self.id} is on already")
        self._off = trio.Event()

    async def kill(self) -> None:
        self._scope.cancel()
        self._off.set()

    async def wait_off(self) -> None:
        await self._off.wait()

    async def destroy(self) -> None:
        await self.kill()
        self._host.machines.pop(self.id, None)

    async def power(self) -> Power:
        return Power.OFF if self._off.is_set() else Power.ON

    async def dial_tether(self) -> Line:
        if self._off.is_set():
            raise HypervisorError(f"machine {self.id} is off")
        self._scope.cancel()
        self._scope = trio.CancelScope()
        here, there = socket.socketpair()
        self._host.nursery.start_soon(self._serve, Line(there.detach()), self._scope)
        return Line(here.detach())

    async def _serve(self, line: Line, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await self._host.guest(self.spec, line)
                self._off.set()
        finally:
            line.close()

    def disk_addresses(self) -> list[DiskAddress]:
        return [DiskAddress(0, 0, lun) for lun in range(len(self.spec.disks))]

    async def usage(self) -> Usage:
        return Usage(0, 0)

    def last_words(self) -> str:
        return ""


class FakeDriver(Driver):
    def __init__(self, host: FakeHost) -> None:
        self._host = host

    async def connect(self) -> None:
        pass

    async def create(self, spec: MachineSpec) -> Machine:
        machine = self._host.machines[spec.id] = FakeMachine(self._host, spec)
        return machine

    async def adopt(self) -> list[Machine]:
        return list(self._host.machines.values())

    def describe(self) -> dict[str, str]:
        return {"Driver": "fake"}
