"""The driver contract on vSphere: VMware's simulator answers the calls, and a stand-in host boots the machines."""

import io
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from pyVmomi import vim

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.engine.machines.boot import launch_setup
from appliance.engine.machines.guest_config import GuestConfig
from appliance.engine.model.layout import first_layout
from appliance.guest import GuestSession
from appliance.hypervisor import SCRATCH, Disk, DiskKind, Driver, MachineSpec
from appliance.hypervisor.vsphere.concentrator import Concentrator
from appliance.hypervisor.vsphere.driver import VsphereDriver
from appliance.hypervisor.vsphere.inventory import Names
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import uuid_of
from appliance.image.erofs import write_erofs
from tests.appliance.hypervisor.contract import DriverContract
from tests.live.images import busybox_layer
from tests.live.vsphere.simulator import Simulator, server_of
from tests.live.vsphere.standin import StandInHost, standing_in
from tether.rpc.bridge import LoopThread

pytestmark = pytest.mark.live


@asynccontextmanager
async def opened(server: Server, root: Path, number: int = 0) -> AsyncIterator[tuple[VsphereDriver, StandInHost, int]]:
    """A driver with its concentrator on a loopback port (0: any free port), the stand-in host, and the port's number."""
    async with trio.open_nursery() as nursery:
        concentrator = Concentrator(nursery)
        (listener,) = await trio.open_tcp_listeners(number, host="127.0.0.1")
        number = listener.socket.getsockname()[1]
        nursery.start_soon(concentrator.serve, listener)
        async with (
            standing_in(server, root / "bodies") as host,
            VsphereDriver.open(
                server, Names("tenant", bridge="VM Network"), concentrator, f"telnet://127.0.0.1:{number}"
            ) as driver,
        ):
            await driver.connect()
            yield driver, host, number
        nursery.cancel_scope.cancel()


class TestVsphere(DriverContract):
    @pytest.fixture(autouse=True)
    def _world(self, simulator: Simulator) -> None:
        self._server = server_of(simulator)
        self._port = 0

    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        return self._open(root)

    @asynccontextmanager
    async def _open(self, root: Path) -> AsyncIterator[Driver]:
        async with opened(self._server, root, self._port) as (driver, _, number):
            # Hosts connect again to the port in the VMs' configuration, so the next driver listens on the same port.
            self._port = number
            yield driver

    async def with_disks(self, driver: Driver, spec: MachineSpec) -> MachineSpec:
        assert isinstance(driver, VsphereDriver)
        for disk in spec.disks:
            await driver.disks.create(disk.path, DiskKind(1 << 20, ()))
        return spec

    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        async with Session.open(self._server) as session:
            content = session.content
            uuid = uuid_of("tenant", machine_id)
            found = await session.read("look", content.searchIndex.FindByUuid, None, uuid, True, True)
            await session.change("off", vim.VirtualMachine(found._moId, session.stub).PowerOff)


async def test_a_session_goes_through_moves(simulator: Simulator, short_path: Path) -> None:
    """A guest answers calls without an error while its machine moves from host to host; one of the moves is aborted."""
    async with opened(server_of(simulator), short_path) as (driver, host, _), LoopThread.open() as loop:
        machine = await driver.create(MachineSpec("moves", 256, 1))
        await machine.start()
        session = GuestSession(loop, await machine.dial_tether())
        answers, answered = 0, trio.Event()

        async def ask() -> None:
            nonlocal answers
            while True:
                hello = await session.hello(60)
                assert hello.boot_id == first.boot_id
                answers += 1
                answered.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            first = await session.hello(60)
            nursery.start_soon(ask)
            uuid = uuid_of("tenant", "moves")
            for give_up in (False, True, False):
                await trio.sleep(0.3)
                await host.move(uuid, give_up=give_up)
                before = answers
                with trio.fail_after(20):
                    while answers < before + 5:
                        await answered.wait()
                        answered = trio.Event()
            # The link did not open a new session.
            assert session.sessions == 1
            nursery.cancel_scope.cancel()
        session.close()
        await machine.destroy()


async def test_a_container_runs(simulator: Simulator, short_path: Path) -> None:
    """The guest mounts a shared layer and a writable disk as its root and runs a program. The disk outlives the machine."""
    layer, upper = short_path / "busybox.erofs", short_path / "upper.ext4"
    with open(layer, "w+b") as out:
        write_erofs(io.BytesIO(busybox_layer()).read, out)
    script = "cat /kept; echo more >> /kept; echo said"
    config = ContainerConfig(cmd=["/bin/sh", "-c", script], hostname="box", env=["PATH=/bin"])
    said = []
    async with opened(server_of(simulator), short_path) as (driver, _, _), LoopThread.open() as loop:
        await driver.disks.create(upper, SCRATCH)
        for _ in range(2):
            machine = await driver.create(MachineSpec("c0ffee", 256, 1, (Disk(upper, False), Disk(layer, True))))
            await machine.start()
            session = GuestSession(loop, await machine.dial_tether())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.run)
                await session.hello(60)
                setup, process = launch_setup(
                    "c0ffee", config, HostConfig(), first_layout(machine.guest_disks(), 0), GuestConfig([]), 0
                )
                async with session.launch(setup, process, 60) as launched:
                    async for records in launched.output():
                        said += [record.data for record in records.records]
                await session.shut_down()
                nursery.cancel_scope.cancel()
            session.close()
            await machine.destroy()
        assert b"".join(said) == b"cat: can't open '/kept': No such file or directory\nsaid\nmore\nsaid\n"
        assert await driver.disks.used(upper)
        await driver.disks.remove(upper)
        assert await driver.disks.used(upper) == 0
