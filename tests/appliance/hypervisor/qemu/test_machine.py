"""The driver and its machines on a program that only behaves as QEMU: the contract, NICs and saved states without a VM.

tests/appliance/hypervisor/test_qemu.py runs the same contract on real QEMU.
"""

import contextlib
import gc
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.errors import HypervisorError
from appliance.hypervisor import (
    Checkpointable,
    Disk,
    Driver,
    Forward,
    MachineSpec,
    Nic,
    Power,
    Restorable,
    Share,
    TakesPciDevices,
)
from appliance.hypervisor.qemu import QemuDriver, hotplug, process
from appliance.hypervisor.qemu.command import (
    MOST_MORE_NICS,
    MOST_MORE_SHARES,
    clone_origin,
)
from appliance.hypervisor.qemu.machine import QemuMachine
from appliance.hypervisor.qemu.process import PROGRAM, identity
from appliance.hypervisor.qemu.template import Template, blank
from appliance.hypervisor.qemu.vfio import PciDevices
from tests.appliance.hypervisor.contract import ConcurrentPlugging, DriverContract
from tests.appliance.hypervisor.qemu.plugging import QemuPlugging
from tests.appliance.hypervisor.qemu.test_vfio import make_device

_NETWORK = ("10.77.0.0/24", "10.77.0.1", "10.77.0.254")

pytestmark = [
    # Machines outlive their driver on purpose.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _program(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs, guest = short_path / "bin", short_path / "guest"
    programs.mkdir(mode=0o755)
    shutil.copy(Path(__file__).with_name("fake_qemu.py"), programs / PROGRAM)
    (programs / PROGRAM).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    guest.mkdir()
    for name in ("vmlinux", "initrd", "modules.squashfs"):
        (guest / name).write_bytes(b"")


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[QemuDriver]:
    async with trio.open_nursery() as nursery:
        driver = QemuDriver(root / "machines", root / "guest", "tcg", root / "cache", nursery)
        await driver.connect()
        yield driver
        nursery.cancel_scope.cancel()
    gc.collect()


def _record(root: Path, machine_id: str) -> dict[str, int]:
    found: dict[str, int] = json.loads((root / "machines" / machine_id / "machine.json").read_text())
    return found


class TestQemuWithoutGuests(DriverContract):
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        return opened(root)

    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        os.kill(_record(root, machine_id)["pid"], 9)


class TestPlugging(QemuPlugging, ConcurrentPlugging):
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[QemuDriver]:
        return opened(root)


async def test_a_machine_whose_disks_changed_is_not_saved_and_does_not_start_again(short_path: Path) -> None:
    async with opened(short_path) as driver:
        machine = await TestPlugging().started(driver, short_path)
        assert isinstance(machine, QemuMachine)
        await machine.plug_disks([Disk(machine.spec.disks[1].path, True)])
        with pytest.raises(HypervisorError, match="whose disks have changed"):
            await machine.save_to(short_path, lambda: None, go_on=True)
        await machine.kill()
        # A new guest knows nothing of the disks that the guest before took.
        await machine.start()
        assert machine.spec.more_disks == ()
        await machine.release_disks([machine.spec.disks[0].path])
        with pytest.raises(HypervisorError, match="whose disks have changed"):
            await machine.save_to(short_path, lambda: None, go_on=True)
        await machine.kill()
        with pytest.raises(HypervisorError, match="its disks were released"):
            await machine.start()
        await machine.destroy()


async def test_a_nic_that_qemu_refuses_takes_no_other_nic_along(short_path: Path) -> None:
    async with opened(short_path) as driver:
        machine = driver.make(MachineSpec("m1", 256, 1))
        await machine.start()
        good = Nic("02:00:00:00:00:01", *_NETWORK)

        async def refused() -> None:
            with pytest.raises(HypervisorError, match="bad MAC address"):
                await machine.plug_nic(Nic("nonsense", *_NETWORK))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused)
            nursery.start_soon(machine.plug_nic, good)
        assert [nic for nic in machine.spec.more_nics if nic] == [good]
        await machine.destroy()


async def test_shares_are_added_only_to_shared_memory(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Share, ...]] = []

    def serve(_folder: Path, shares: tuple[Share, ...]) -> socket.socket:
        if not shares[0].path.exists():
            raise HypervisorError("cannot share")
        served.append(shares)
        one, other = socket.socketpair()
        other.close()
        return one

    monkeypatch.setattr(hotplug, "serve", serve)
    share = Share(short_path, True)
    async with opened(short_path) as driver:
        plain = driver.make(MachineSpec("plain", 256, 1))
        await plain.start()
        with pytest.raises(HypervisorError, match="memory of the machine is not shared"):
            await plain.plug_shares((share,))
        await plain.destroy()
        monkeypatch.setattr(driver, "why_no_shares", lambda: "")
        machine = driver.make(MachineSpec("m1", 256, 1, grows=True))
        await machine.start()
        assert "share=on" in (machine.folder / "command").read_text()
        with pytest.raises(HypervisorError, match="cannot share"):
            await machine.plug_shares((Share(short_path / "none", True),))
        tags = [await machine.plug_shares((share,)) for _ in range(MOST_MORE_SHARES)]
        assert tags == [f"vch{number}" for number in range(1, MOST_MORE_SHARES + 1)]
        assert machine.spec.more_shares == ((share,),) * MOST_MORE_SHARES
        with pytest.raises(HypervisorError, match="6 times, which is the maximum"):
            await machine.plug_shares((share,))
    async with opened(short_path) as driver:
        (found,) = await driver.adopt()
        assert found.spec == machine.spec
        await found.destroy()


async def test_nics_come_and_go(short_path: Path) -> None:
    async with opened(short_path) as driver:
        machine = driver.make(MachineSpec("m1", 256, 1, nic=Nic("02:00:00:00:00:00", *_NETWORK)))
        await machine.start()
        for number in range(1, MOST_MORE_NICS + 1):
            await machine.plug_nic(Nic(f"02:00:00:00:00:{number:02x}", *_NETWORK))
        with pytest.raises(HypervisorError, match="has 9 NICs, which is the maximum"):
            await machine.plug_nic(Nic("02:00:00:00:00:99", *_NETWORK))
        await machine.unplug_nic("02:00:00:00:00:03")
        assert machine.spec.more_nics[2] is None
        before = machine.spec
        with pytest.raises(HypervisorError, match="bad MAC address"):
            await machine.plug_nic(Nic("nonsense", *_NETWORK))
        assert machine.spec == before
        with pytest.raises(HypervisorError, match="has no NIC 02:00:00:00:00:03"):
            await machine.unplug_nic("02:00:00:00:00:03")
        forward = Forward("tcp", "127.0.0.1", 8080, "10.77.0.9", 80)
        await machine.set_forwards("02:00:00:00:00:00", (forward,))
    async with opened(short_path) as driver:
        (found,) = await driver.adopt()
        assert found.spec.more_nics == before.more_nics
        assert found.spec.nic is not None
        assert found.spec.nic.forwards == (forward,)
        await found.destroy()


# -- templates --------------------------------------------------------------------------------------------------------


class _Templated(QemuDriver):
    """A driver that has a template already."""

    template: Template | None = None
    reported = 0

    async def find_template(self, spec: MachineSpec) -> Template | None:
        return self.template

    def distrust(self, template: Template) -> None:
        self.template = None

    def report_silent(self, template: Template) -> None:
        self.reported += 1


@asynccontextmanager
async def _templated(root: Path) -> AsyncIterator[_Templated]:
    async with trio.open_nursery() as nursery:
        driver = _Templated(root / "machines", root / "guest", "tcg", root / "cache", nursery)
        await driver.connect()
        template = driver.template = blank("key", 256)
        yield driver
        nursery.cancel_scope.cancel()
    template.close()
    gc.collect()


async def test_a_restored_machine_can_boot_instead(short_path: Path) -> None:
    async with _templated(short_path) as driver:
        machine = driver.make(TestQemuWithoutGuests().spec(short_path))
        assert isinstance(machine, Restorable)
        await machine.start()
        line = await machine.dial_tether()
        assert machine.restored
        first = _record(short_path, "m1")["pid"]
        assert "-incoming defer" in (short_path / "machines/m1/command").read_text()
        line.close()
        await machine.boot()
        assert (machine.restored, driver.reported) == (False, 1)
        assert _record(short_path, "m1")["pid"] not in (0, first)
        assert not Path(f"/proc/{first}").exists()
        assert "-incoming" not in (short_path / "machines/m1/command").read_text()
        line = await machine.dial_tether()
        assert await line.read() == b"HELLO"
        line.close()
        # A boot says nothing about the template.
        await machine.boot()
        assert driver.reported == 1
        await machine.destroy()


async def test_a_monitor_that_hangs_means_a_boot(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAKE_QEMU_HANGS", "1")
    monkeypatch.setattr("appliance.hypervisor.qemu.machine._RESTORE_SECONDS", 0.2)
    async with _templated(short_path) as driver:
        machine = driver.make(TestQemuWithoutGuests().spec(short_path))
        with trio.fail_after(20):
            await machine.start()
        assert (machine.restored, driver.template) == (False, None)
        assert "machine m1 cannot be restored and boots instead: QEMU has not restored the machine" in caplog.text
        await machine.destroy()


async def test_a_machine_of_the_pool_whose_monitor_hangs(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_QEMU_HANGS", "1")
    monkeypatch.setattr("appliance.hypervisor.qemu.machine._RESTORE_SECONDS", 0.2)
    async with opened(short_path) as driver:
        machine = driver.make(MachineSpec("blank1", 256, 1))
        machine.launch(clone_origin(-1, shares=False))
        with trio.fail_after(20), pytest.raises(HypervisorError, match="QEMU has not plugged in the devices"):
            await machine.become(MachineSpec("m1", 256, 1))
        await machine.destroy()


async def test_a_state_is_saved_and_continued(short_path: Path) -> None:
    folder = short_path / "saved"
    folder.mkdir(mode=0o700)
    async with opened(short_path) as driver:
        spec = replace(TestQemuWithoutGuests().spec(short_path), nic=Nic("02:00:00:00:00:00", *_NETWORK))
        machine = driver.make(spec)
        await machine.start()
        spec.disks[0].path.write_bytes(b"then")
        paused: list[bool] = []
        await machine.save_to(folder, lambda: paused.append(True), go_on=False)
        assert paused == [True]
        assert await machine.power() is Power.OFF
        spec.disks[0].path.write_bytes(b"later")
        await machine.start_from(folder)
        assert await machine.power() is Power.ON
        assert spec.disks[0].path.read_bytes() == b"then"
        assert "-incoming defer" in (short_path / "machines/m1/command").read_text()
        line = await machine.dial_tether()
        assert await line.read() == b"HELLO"
        line.close()
        await machine.destroy()


async def test_a_state_of_another_shape_is_refused(short_path: Path) -> None:
    folder = short_path / "saved"
    folder.mkdir(mode=0o700)
    async with opened(short_path) as driver:
        spec = TestQemuWithoutGuests().spec(short_path)
        machine = driver.make(spec)
        await machine.start()
        await machine.save_to(folder, lambda: None, go_on=True)
        assert await machine.power() is Power.ON
        await machine.destroy()
        other = driver.make(replace(spec, id="m2", memory_mib=512))
        with pytest.raises(HypervisorError, match="a machine of another shape"):
            await other.start_from(folder)
        assert await other.power() is Power.OFF
        await other.destroy()


async def test_a_pci_device_belongs_to_one_machine_for_as_long_as_it_exists(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not every test host lets root raise the limit.
    monkeypatch.setattr(process, "locked_memory", contextlib.nullcontext)
    make_device(short_path, "0000:01:00.0", "12")
    node = short_path / "dev/vfio/12"
    spec = MachineSpec("m1", 256, 1, name="web", pci_devices=("0000:01:00.0",))
    taken = r"^PCI device 0000:01:00\.0 is in use by the machine of web$"
    async with opened(short_path) as driver:
        driver.pci_devices = PciDevices(short_path)
        assert isinstance(driver, TakesPciDevices)
        assert driver.template_for(spec) is None
        assert driver.ready_pci_devices() == ["0000:01:00.0"]
        machine = await driver.create(spec)
        with pytest.raises(HypervisorError, match=taken):
            await driver.create(replace(spec, id="m2"))
        assert not (short_path / "machines/m2").exists()
        await machine.start()
        assert "vfio-pci,id=host0,host=0000:01:00.0" in (short_path / "machines/m1/command").read_text()
        assert node.stat().st_uid == identity("m1").get("user", os.geteuid())
        assert isinstance(machine, Checkpointable)
        with pytest.raises(HypervisorError, match=r"with the PCI device 0000:01:00\.0 cannot be saved"):
            await machine.save_to(short_path, lambda: None, go_on=True)
    async with opened(short_path) as driver:
        driver.pci_devices = PciDevices(short_path)
        (found,) = await driver.adopt()
        with pytest.raises(HypervisorError, match=taken):
            await driver.create(replace(spec, id="m2"))
        await found.destroy()
        assert node.stat().st_uid == os.geteuid()
        other = await driver.create(replace(spec, id="m2"))
        await other.destroy()


async def test_a_machine_has_eight_pci_devices_at_most(short_path: Path) -> None:
    async with opened(short_path) as driver:
        with pytest.raises(HypervisorError, match="can have 8 PCI devices of the host at most"):
            await driver.create(MachineSpec("m1", 256, 1, pci_devices=("0000:01:00.0",) * 9))


@pytest.mark.parametrize("own", [False, True], ids=["another appliance's", "own"])
async def test_only_an_own_machine_without_a_record_is_ended(
    short_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    """Templates of two appliances have the same title."""
    spec = replace(TestQemuWithoutGuests().spec(short_path), id="template0123456789")
    async with opened(short_path) as driver, trio.open_nursery() as nursery:
        machine = driver.make(spec)
        await machine.start()
        pid = _record(short_path, spec.id)["pid"]
        # The program's title is not QEMU's, since it is a script.
        monkeypatch.setattr("appliance.hypervisor.qemu.driver.running_titles", lambda: {process.title(spec.id): [pid]})
        root = short_path / ("machines" if own else "others")
        other = QemuDriver(root, short_path / "guest", "tcg", short_path / "cache", nursery)
        await other.connect()
        # Killed before it had recorded the process.
        other.make(replace(spec, disks=()))
        other._machines.clear()
        assert await other.adopt() == []
        with trio.move_on_after(0.3):
            await machine.wait_off()
        assert await machine.power() is (Power.OFF if own else Power.ON)
        await machine.destroy()
        nursery.cancel_scope.cancel()


async def test_a_damaged_folder_is_removed(short_path: Path) -> None:
    (short_path / "machines/broken").mkdir(parents=True)
    (short_path / "machines/broken/machine.json").write_text("{")
    async with opened(short_path) as driver:
        assert await driver.adopt() == []
    assert list((short_path / "machines").iterdir()) == []
