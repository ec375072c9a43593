"""What the tests of disks that come and go expect of QEMU itself: the stand-in program and real QEMU pass them."""

from abc import abstractmethod
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import HypervisorError
from appliance.hypervisor import Disk, ScsiAddress
from appliance.hypervisor.qemu import QemuDriver
from appliance.hypervisor.qemu.command import DiskPlace, backing_node, disk_device, disk_node, empty_node, file_node
from appliance.hypervisor.qemu.machine import QemuMachine
from tests.appliance.hypervisor.contract import PluggingContract


async def _inside(machine: QemuMachine) -> tuple[list[str], list[int]]:
    """The names of the block nodes, and the sets of descriptors, that QEMU has."""
    async with machine.open_monitor() as monitor:
        nodes, sets = await monitor.execute("query-named-block-nodes"), await monitor.execute("query-fdsets")
    assert isinstance(nodes, list)
    assert isinstance(sets, list)
    names = sorted(node["node-name"] for node in nodes)
    return [name for name in names if not name.startswith("#")], sorted(one["fdset-id"] for one in sets)


class QemuPlugging(PluggingContract):
    @abstractmethod
    def open_driver(self, root: Path) -> AbstractAsyncContextManager[QemuDriver]:
        """See PluggingContract."""

    async def test_nothing_of_a_released_disk_stays_in_qemu(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await self.started(driver, short_path)
            assert isinstance(machine, QemuMachine)
            before = await _inside(machine)
            disks = await self.with_disks(driver, [Disk(short_path / f"layers/{n}", True) for n in range(3)])
            (found, *_) = await machine.plug_disks(disks)
            # A target of their own: templates and saved states have only the other.
            assert found.address == ScsiAddress(0, 1, 0)
            assert await _inside(machine) != before
            await machine.release_disks([disk.path for disk in disks])
            assert await _inside(machine) == before
            with (
                self.refused_disk(short_path) as refused,
                pytest.raises(HypervisorError, match="No such file"),
            ):
                await machine.plug_disks([*disks, refused])
            assert await _inside(machine) == before
            await machine.release_disks([disk.path for disk in machine.spec.disks])
            assert await _inside(machine) == (["disk0", "disk0-empty", "disk1", "disk1-empty", "modules"], [0])
            await machine.destroy()

    @pytest.mark.parametrize("done", [0, 3, 4])
    async def test_a_killed_appliance_leaves_a_place_that_can_be_freed(self, short_path: Path, done: int) -> None:
        """The appliance was killed after it recorded the disk and sent `done` of the commands that plug the disk in, or unplug it."""
        async with self.open_driver(short_path) as driver:
            machine = await self.started(driver, short_path)
            assert isinstance(machine, QemuMachine)
            upper, disk = machine.spec.disks[0], Disk(short_path / "layers/first", True)
            machine.spec = replace(machine.spec, more_disks=(disk,))
            machine.save_record()
            place = DiskPlace(0, later=True)
            commands: list[tuple[str, dict[str, object]]] = [
                ("add-fd", {"fdset-id": place.descriptors}),
                ("blockdev-add", backing_node(place, file_node(place), True, 0)),
                ("blockdev-add", disk_node(place, "more0-0", True, in_slot=False)),
                ("device_add", disk_device(place)),
            ]
            with open(disk.path, "rb") as file:
                async with machine.open_monitor() as monitor:
                    for command, arguments in commands[:done]:
                        await monitor.execute(command, arguments, fd=file.fileno() if command == "add-fd" else -1)
                    if done:
                        # A release of the machine's own disk came as far as its first command.
                        empty = backing_node(DiskPlace(0), empty_node(1 << 20), False, "empty")
                        await monitor.execute("blockdev-add", empty)
        async with self.open_driver(short_path) as driver:
            (found,) = await driver.adopt()
            assert isinstance(found, QemuMachine)
            await found.release_disks({disk.path})
            assert found.spec.more_disks == ()
            await found.release_disks({upper.path})
            assert all(one.released for one in found.spec.disks)
            nodes, sets = await _inside(found)
            assert sets == [0]
            assert not [name for name in nodes if name.startswith("more")]
            await found.destroy()
