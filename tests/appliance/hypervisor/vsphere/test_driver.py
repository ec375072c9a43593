"""Machines on VMware's simulator: created once even if answers are lost, adopted by the next driver, watched for changes."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from pyVmomi import vim

from appliance.errors import HypervisorError, InvalidParameter, leaves
from appliance.hypervisor import (
    Disk,
    DiskKind,
    Driver,
    Machine,
    MachineSpec,
    Nic,
    Power,
    ResourceShares,
    ScsiAddress,
    SetShares,
    Suspendable,
)
from appliance.hypervisor.vsphere.concentrator import Concentrator
from appliance.hypervisor.vsphere.driver import VsphereDriver
from appliance.hypervisor.vsphere.faults import AnswerLost, Gone, LoginRefused, NotAllowed, StorageFull
from appliance.hypervisor.vsphere.inventory import Names, find
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import TENANT_KEY
from tests.appliance.hypervisor.contract import ConcurrentPlugging
from tests.live.vsphere.faultproxy import CLOSE_BEFORE, DELAY, LOSE_ANSWER, FaultProxy, running_proxy
from tests.live.vsphere.simulator import Simulator, server_of

_URI = "telnet://192.0.2.1:2377"


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with running_proxy(simulator, tmp_path_factory.mktemp("proxy")) as one:
        yield one


@asynccontextmanager
async def _driver(
    at: Simulator | FaultProxy, tenant: str = "tenant", *, connected: bool = True
) -> AsyncIterator[VsphereDriver]:
    async with trio.open_nursery() as nursery:
        async with VsphereDriver.open(
            server_of(at), Names(tenant, bridge="VM Network"), Concentrator(nursery), _URI
        ) as driver:
            with trio.fail_after(20):
                if connected:
                    await driver.connect()
            yield driver
        nursery.cancel_scope.cancel()


def _spec(name: str) -> MachineSpec:
    return MachineSpec(name * 32, 64, 1, nic=Nic("02:42:ac:11:00:02", bridge="VM Network"))


async def _machines(at: Simulator | FaultProxy) -> list[Any]:
    """All VMs of the simulator, of any tenant."""
    async with Session.open(server_of(at)) as session:
        content = session.content
        view = await session.change(
            "view", content.viewManager.CreateContainerView, content.rootFolder, [vim.VirtualMachine], True
        )
        found: list[Any] = await session.look("view", view, "view")
        return found


async def test_the_life_of_a_machine(simulator: Simulator) -> None:
    async with _driver(simulator) as driver:
        machine = await driver.create(_spec("a1"))
        assert await machine.power() is Power.OFF
        await machine.start()
        assert await machine.power() is Power.ON
        await machine.kill()
        assert await machine.power() is Power.OFF
        await machine.kill()
        with trio.fail_after(10):
            await machine.wait_off()
        await machine.start()
        await machine.destroy()
        await machine.destroy()
        assert await driver.adopt() == []
    assert await _machines(simulator) == []


async def test_the_configuration_of_a_vm(simulator: Simulator) -> None:
    async with _driver(simulator) as driver:
        machine = await driver.create(_spec("b2"))
        (made,) = await _machines(simulator)
        async with Session.open(server_of(simulator)) as session:
            config = await session.look("config", vim.VirtualMachine(made._moId, session.stub), "config")
        assert (config.name, config.hardware.memoryMB, config.hardware.numCPU) == (f"tenant-{'b2' * 6}", 64, 1)
        extra = {one.key: one.value for one in config.extraConfig}
        assert extra[TENANT_KEY] == "tenant"
        # The guest can read guestinfo, so vchd must not store anything there.
        assert not any(key.startswith("guestinfo") for key in extra)
        devices = {type(device): device for device in config.hardware.device}
        serial = devices[vim.vm.device.VirtualSerialPort].backing
        assert (serial.proxyURI, serial.direction) == (_URI, "client")
        assert len(serial.serviceURI) > 30
        nic = devices[vim.vm.device.VirtualVmxnet3]
        assert (nic.macAddress, nic.addressType.lower()) == ("02:42:ac:11:00:02", "manual")
        await machine.destroy()


async def _api(at: Simulator) -> str:
    async with Session.open(server_of(at)) as session:
        return str(session.content.about.apiType)


async def _group(driver: VsphereDriver, name: str) -> list[Any] | None:
    """The existing VMs of a DRS group, [] when it is empty; None when the cluster has no such group."""
    cluster = await driver.session.look("cluster", driver.inventory.pool, "owner")
    groups = await driver.session.look("groups", cluster, "configurationEx.group") or ()
    members = next((one.vm or [] for one in groups if one.name == name), None)
    return members and list(await driver.session.properties("names", members, ["name"]))


async def test_machines_of_a_group(simulator: Simulator, proxy: FaultProxy) -> None:
    names = Names("tenant", bridge="VM Network", group="pinned")
    async with trio.open_nursery() as nursery:
        opening = VsphereDriver.open(server_of(proxy), names, Concentrator(nursery), _URI)
        if "HostAgent" in str(await _api(simulator)):
            with pytest.raises(ExceptionGroup) as failed:
                async with opening:
                    pass
            (error,) = leaves(failed.value)
            assert "--vm-group pinned: groups need a cluster, and this compute resource is not a cluster" in str(error)
            return
        proxy.rules += [("ReconfigureComputeResource_Task", LOSE_ANSWER)]
        async with opening as driver:
            await driver.connect()
            assert await _group(driver, "pinned") == []
            before = proxy.calls.count("ReconfigureComputeResource_Task")
            machines: list[Machine] = []

            async def create(number: int) -> None:
                machines.append(await driver.create(_spec(f"a{number:x}")))

            proxy.rules += [("ReconfigureComputeResource_Task", LOSE_ANSWER)]
            async with trio.open_nursery() as creating:
                for number in range(16):
                    creating.start_soon(create, number)
            members = await _group(driver, "pinned")
            assert members is not None
            assert len(members) == 16
            # One call adds several VMs.
            assert proxy.calls.count("ReconfigureComputeResource_Task") - before < 16
            # A VM that cannot join the group is not created.
            proxy.rules += [("ReconfigureComputeResource_Task", "NoPermission")]
            with pytest.raises(NotAllowed):
                await driver.create(_spec("b0"))
            assert len(await _machines(simulator)) == 16
            for machine in machines:
                await machine.destroy()
            assert await _group(driver, "pinned") == []
        nursery.cancel_scope.cancel()


async def test_machines_outlive_the_driver(simulator: Simulator) -> None:
    async with _driver(simulator) as driver:
        on = await driver.create(_spec("c3"))
        await on.start()
        await driver.create(_spec("c4"))
    async with _driver(simulator, "another") as driver:
        assert await driver.adopt() == []
    async with _driver(simulator) as driver:
        driver.session.stub.calls.clear()
        found = {machine.id: machine for machine in await driver.adopt()}
        assert {name[:2]: await machine.power() for name, machine in found.items()} == {"c3": Power.ON, "c4": Power.OFF}
        assert found["c3" * 32].spec == _spec("c3")
        # One call, however many VMs there are.
        assert sum(driver.session.stub.calls.values()) == 1
        for machine in found.values():
            await machine.destroy()


async def test_changes_by_an_operator_are_noticed(simulator: Simulator) -> None:
    async with _driver(simulator) as driver:
        machine = await driver.create(_spec("d5"))
        await machine.start()
        (reference,) = await _machines(simulator)
        async with Session.open(server_of(simulator)) as other:
            theirs = vim.VirtualMachine(reference._moId, other.stub)
            await other.change("rename", theirs.Rename, "somebody's idea")
            await other.change("off", theirs.PowerOff)
            with trio.fail_after(10):
                await machine.wait_off()
            assert await machine.power() is Power.OFF
            await machine.start()
            await other.change("off", theirs.PowerOff)
            with trio.fail_after(10):
                await machine.wait_off()
            await other.change("destroy", theirs.Destroy)
        with trio.fail_after(5):
            await machine.destroy()
        assert await driver.adopt() == []


async def test_shares(proxy: FaultProxy) -> None:
    async with _driver(proxy) as driver:
        machine = await driver.create(_spec("ab"))
        await machine.start()
        assert isinstance(machine, SetShares)
        paths = [
            "config.cpuAllocation.shares.level",
            "config.cpuAllocation.shares.shares",
            "config.memoryAllocation.reservation",
        ]
        # The reservation is limited to the VM's memory.
        for weight, facts in (
            (ResourceShares(512, 32), ("custom", 500, 32)),
            (ResourceShares(2048, 1000), ("custom", 2000, 64)),
        ):
            await machine.set_shares(weight)
            found = await driver.session.properties("weight", [machine.reference], paths)
            assert tuple(found[machine.reference._moId].get(path) for path in paths) == facts
        proxy.rules.append(("ReconfigVM_Task", LOSE_ANSWER))
        await machine.set_shares(ResourceShares())
        found = await driver.session.properties("weight", [machine.reference], paths)
        assert found[machine.reference._moId]["config.cpuAllocation.shares.level"] == "normal"
        assert found[machine.reference._moId]["config.memoryAllocation.reservation"] == 0
        await machine.destroy()


async def test_a_task_that_the_server_does_not_know(simulator: Simulator) -> None:
    async with _driver(simulator) as driver:
        with trio.fail_after(10), pytest.raises(AnswerLost, match="ghost: the server forgot the task before its end"):
            await driver.collector.wait("ghost", vim.Task("task-none", driver.session.stub))


async def test_an_answer_that_cannot_be_read(simulator: Simulator, tmp_path: Path) -> None:
    """The simulator's info of a disk's task names an object as `entity` that is not a managed entity."""
    async with _driver(simulator) as driver:
        manager = driver.session.content.virtualDiskManager
        path = driver.datastore.path("nowhere/disk.vmdk")
        datacenter = driver.inventory.datacenter
        task = await driver.session.change("delete", manager.DeleteVirtualDisk_Task, path, datacenter)
        with pytest.raises(AnswerLost, match="an answer that cannot be read: TypeError"):
            await driver.session.change("look", getattr, task, "info")
        with pytest.raises(HypervisorError, match="FileNotFound"):
            await driver.collector.wait("delete", task)


async def test_a_server_that_forgets_each_login(proxy: FaultProxy) -> None:
    async with Session.open(server_of(proxy)) as session:
        proxy.rules += [("CurrentTime", "NotAuthenticated")] * 100
        clock = vim.ServiceInstance("ServiceInstance", session.stub)
        with pytest.raises(LoginRefused, match="login succeeded, but vSphere does not recognise the session"):
            await session.read("time", clock.CurrentTime)
        proxy.rules.clear()
        assert await session.read("time", clock.CurrentTime)


_DISK_CHANGES = (
    "MakeDirectory",
    "ReconfigVM_Task",
    "CreateVirtualDisk_Task",
    "DeleteVirtualDisk_Task",
    "SearchDatastore_Task",
)
_CHANGES = ("CreateVM_Task", "PowerOnVM_Task", "PowerOffVM_Task", "Destroy_Task")
_TROUBLES = (
    LOSE_ANSWER,
    CLOSE_BEFORE,
    DELAY,
    "TaskInProgress",
    "ConcurrentAccess",
    "NotAuthenticated",
    "HostNotConnected",
)


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
@pytest.mark.parametrize("method", ["CreatePropertyCollector", "CreateListView", "CreateFilter", "WaitForUpdatesEx"])
async def test_a_task_that_ends_before_anything_is_followed(proxy: FaultProxy, method: str) -> None:
    proxy.rules.append((method, DELAY))
    proxy.calls.clear()
    async with _driver(proxy, connected=False) as driver:
        with trio.fail_after(20):
            while method not in proxy.calls:  # noqa: ASYNC110 - another thread changes it
                await trio.sleep(0.01)
            machine = await driver.create(_spec("aa"))
            await machine.start()
            await machine.destroy()
    assert not proxy.rules


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
@pytest.mark.parametrize("trouble", _TROUBLES)
@pytest.mark.parametrize("method", [*_CHANGES, "ModifyListView"])
async def test_each_change_is_made_once(proxy: FaultProxy, method: str, trouble: str) -> None:
    async with _driver(proxy) as driver:
        proxy.rules.append((method, trouble))
        with trio.fail_after(60):
            machine = await driver.create(_spec("e6"))
            assert len(await _machines(proxy.simulator)) == 1
            await machine.start()
            assert await machine.power() is Power.ON
            await machine.kill()
            assert await machine.power() is Power.OFF
            await machine.destroy()
        assert not proxy.rules
    assert await _machines(proxy.simulator) == []


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
@pytest.mark.parametrize("trouble", _TROUBLES)
@pytest.mark.parametrize("method", ["SuspendVM_Task", "PowerOnVM_Task"])
async def test_a_machine_sleeps_and_wakes_up(proxy: FaultProxy, method: str, trouble: str) -> None:
    async with _driver(proxy) as driver:
        machine = await driver.create(_spec("e7"))
        assert isinstance(machine, Suspendable)
        await machine.start()
        proxy.rules.append((method, trouble))
        with trio.fail_after(60):
            for _ in range(2):
                await machine.suspend()
                assert machine.placement.suspended
                # A suspended VM is not off.
                assert await machine.power() is Power.ON
                await machine.resume()
                await machine.resume()
                assert not machine.placement.suspended
            await machine.suspend()
            # The next driver adopts a VM that was left suspended.
            async with _driver(proxy) as another:
                (found,) = await another.adopt()
                assert isinstance(found, Suspendable)
                assert found.placement.suspended
            await machine.kill()
            assert await machine.power() is Power.OFF
            await machine.destroy()
        assert not proxy.rules


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
@pytest.mark.parametrize(
    ("method", "trouble"),
    [(method, trouble) for method in ("PUT", "HEAD") for trouble in (LOSE_ANSWER, CLOSE_BEFORE, DELAY)]
    + [(method, trouble) for method in _DISK_CHANGES for trouble in _TROUBLES],
)
async def test_disks_are_written_once_and_stay(proxy: FaultProxy, tmp_path: Path, method: str, trouble: str) -> None:
    own, layer = tmp_path / "own.ext4", tmp_path / "layer.erofs"
    layer.write_bytes(b"layer" * 4096)
    async with _driver(proxy) as driver:
        store = driver.datastore
        proxy.rules.append((method, trouble))
        with trio.fail_after(60):
            await driver.disks.create(own, DiskKind(64 << 20, ()))
            machine = await driver.create(replace(_spec("a9"), disks=(Disk(own, False), Disk(layer, True))))
            await machine.start()
            await machine.destroy()
            assert await _machines(proxy.simulator) == []
            assert await store.size("layers/layer-flat.vmdk") == layer.stat().st_size
            assert await store.size("layers/layer.vmdk")
            await driver.disks.sweep([own], [layer], [])
            assert await store.size("layers/layer.vmdk")
            await driver.disks.sweep([own], [], [])
            assert await store.list_files("layers") == {}
            assert list(await store.list_files("disks")) == [
                f"{tmp_path.name}.own-flat.vmdk",
                f"{tmp_path.name}.own.vmdk",
            ]
            await driver.disks.sweep([], [], [])
            assert await store.list_files("disks") == {}
        assert not proxy.rules


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
class TestPlugging(ConcurrentPlugging):
    @pytest.fixture(autouse=True)
    def _simulator(self, simulator: Simulator) -> None:
        self._at = simulator

    @asynccontextmanager
    async def open_driver(self, root: Path) -> AsyncIterator[Driver]:
        async with _driver(self._at) as driver:
            yield driver

    def nic(self, number: int) -> Nic:
        return replace(super().nic(number), bridge="VM Network")

    async def with_disks(self, driver: Driver, disks: list[Disk]) -> list[Disk]:
        assert isinstance(driver, VsphereDriver)
        for disk in await super().with_disks(driver, disks):
            if not disk.read_only:
                await driver.disks.create(disk.path, DiskKind(1 << 20, ()))
        return disks


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
@pytest.mark.parametrize("trouble", [LOSE_ANSWER, "TaskInProgress"])
async def test_disks_are_plugged_in_and_released_once(proxy: FaultProxy, tmp_path: Path, trouble: str) -> None:
    upper, layer = Disk(tmp_path / "upper", False), Disk(tmp_path / "layer.erofs", True)
    layer.path.write_bytes(b"layer" * 4096)
    async with _driver(proxy) as driver:
        await driver.disks.create(upper.path, DiskKind(64 << 20, ()))
        machine = await driver.create(replace(_spec("ad"), disks=(layer,), grows=True))
        await machine.start()
        with trio.fail_after(60):
            proxy.rules.append(("ReconfigVM_Task", trouble))
            found = await machine.plug_disks([upper, layer])
            assert [disk.address for disk in found] == [ScsiAddress(0, 1, 0), ScsiAddress(0, 2, 0)]
            assert [disk.blank for disk in found] == [True, False]
            proxy.rules.append(("ReconfigVM_Task", trouble))
            await machine.release_disks([upper.path, layer.path])
        assert not proxy.rules
        devices = await driver.session.look("devices", machine.reference, "config.hardware.device")
        assert not [one for one in devices if isinstance(one, vim.vm.device.VirtualDisk)]
        # The container's disk stays, and so does the disk of the layer.
        assert await driver.disks.used(upper.path)
        assert await driver.datastore.size("layers/layer.vmdk")
        # A VM is destroyed with its disks, so a disk that was plugged in is detached before.
        await machine.plug_disks([upper])
        await machine.destroy()
        assert await driver.disks.used(upper.path)
        await driver.disks.sweep([], [], [])


async def test_a_leftover_disk_is_created_again(simulator: Simulator, tmp_path: Path) -> None:
    async with _driver(simulator) as driver:
        for size in (64 << 20, 128 << 20):
            await driver.disks.create(tmp_path / "own.ext4", DiskKind(size, ()))
        folder = (
            Path((await driver.session.look("datastore", driver.datastore.reference, "info")).url) / "vch-tenant/disks"
        )
        assert f"RW {(128 << 20) // 512} " in (folder / f"{tmp_path.name}.own.vmdk").read_text()
        shutil.rmtree(folder)
        # An operator has deleted the disk with its folder: its removal succeeds.
        await driver.disks.remove(tmp_path / "own.ext4")
        await driver.disks.create(tmp_path / "own.ext4", DiskKind(64 << 20, ()))
        assert await driver.disks.used(tmp_path / "own.ext4")
        await driver.disks.sweep([], [], [])


async def test_every_answer_of_a_life_is_lost(proxy: FaultProxy) -> None:
    async with _driver(proxy) as driver:
        proxy.rules += [(method, LOSE_ANSWER) for method in (*_CHANGES, *_CHANGES, "ModifyListView", "ModifyListView")]
        with trio.fail_after(60):
            machine = await driver.create(_spec("f7"))
            await machine.start()
            await machine.kill()
            await machine.destroy()
        proxy.rules.clear()
    assert await _machines(proxy.simulator) == []


async def test_a_machine_is_found_by_its_key(proxy: FaultProxy) -> None:
    """A driver that has not adopted anything does not know the VM of an earlier driver: it finds the VM by its key."""
    async with _driver(proxy) as driver:
        first = await driver.create(_spec("a8"))
    async with _driver(proxy) as driver:
        # Creating the machine again returns the existing VM, with the secret that the VM has.
        second = await driver.create(_spec("a8"))
        assert len(await _machines(proxy.simulator)) == 1
        assert second.reference._moId == first.reference._moId
        await second.destroy()


@pytest.mark.parametrize(
    ("method", "fault", "error", "text"),
    [
        ("CreateVM_Task", "NoPermission", NotAllowed, "privilege VirtualMachine.Inventory.Create"),
        ("CreateVM_Task", "NoDiskSpace", StorageFull, "injected NoDiskSpace"),
        ("PowerOnVM_Task", "ManagedObjectNotFound", Gone, "power on"),
    ],
)
async def test_faults_have_their_own_errors(
    proxy: FaultProxy, method: str, fault: str, error: type[Exception], text: str
) -> None:
    async with _driver(proxy) as driver:
        proxy.rules.append((method, fault))

        async def run() -> None:
            machine = await driver.create(_spec("b9"))
            await machine.start()

        with pytest.raises(error, match=text):
            await run()
        for machine in [*driver.machines, *await driver.adopt()]:
            await machine.destroy()
    assert await _machines(proxy.simulator) == []


async def test_updates_that_are_lost(proxy: FaultProxy) -> None:
    async with _driver(proxy) as driver:
        machine = await driver.create(_spec("c0"))
        proxy.rules += [("WaitForUpdatesEx", LOSE_ANSWER), ("WaitForUpdatesEx", CLOSE_BEFORE)]
        with trio.fail_after(30):
            await machine.start()
            await machine.kill()
            await machine.destroy()
        proxy.rules.clear()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ({"datacenter": "none"}, "--datacenter none: no such object; there are"),
        ({"datastore": "none"}, "--image-store none: no such object; there are LocalDS_0"),
        ({"volume_stores": (("fast", "none"),)}, "--volume-store fast none: no such object; there are LocalDS_0"),
        ({"pool": "none"}, "--compute-resource none: no such object; there are"),
    ],
)
async def test_names_that_are_not_there(simulator: Simulator, names: dict[str, Any], text: str) -> None:
    async with Session.open(server_of(simulator)) as session:
        with pytest.raises(InvalidParameter, match=text):
            await find(session, replace(Names("tenant", bridge="VM Network"), **names))
