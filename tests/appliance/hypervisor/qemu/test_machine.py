"""The driver and its machines on a program that only behaves as QEMU: the contract, NICs and saved states without a VM.

tests/appliance/hypervisor/test_qemu.py runs the same contract on real QEMU.
"""

import gc
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.errors import HypervisorError
from appliance.hypervisor import Driver, Forward, MachineSpec, Nic, Power
from appliance.hypervisor.qemu import QemuDriver
from appliance.hypervisor.qemu.command import MOST_MORE_NICS
from appliance.hypervisor.qemu.process import PROGRAM
from tests.appliance.hypervisor.contract import DriverContract

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


async def test_a_damaged_folder_is_removed(short_path: Path) -> None:
    (short_path / "machines/broken").mkdir(parents=True)
    (short_path / "machines/broken/machine.json").write_text("{")
    async with opened(short_path) as driver:
        assert await driver.adopt() == []
    assert list((short_path / "machines").iterdir()) == []
