"""The QEMU driver: the driver contract with real machines, and what only QEMU offers."""

import contextlib
import gc
import io
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio

from appliance.config import default_guest
from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.engine.machines.boot import launch_setup
from appliance.engine.machines.guest_config import GuestConfig
from appliance.engine.model.layout import first_layout
from appliance.errors import HypervisorError
from appliance.guest import GuestSession
from appliance.hypervisor import (
    SCRATCH,
    Disk,
    Driver,
    GuestDisk,
    LocalDisks,
    MachineSpec,
    Nic,
    Power,
    ScsiAddress,
    Share,
)
from appliance.hypervisor.qemu import QemuDriver
from appliance.hypervisor.qemu.command import MOST_MORE_NICS
from appliance.hypervisor.qemu.machine import QemuMachine
from appliance.hypervisor.qemu.process import is_running
from appliance.hypervisor.qemu.template import Template
from appliance.hypervisor.qemu.templates import LocalRehearsal
from appliance.image.erofs import write_erofs
from protos.tether.v1 import network_pb2
from tests.appliance.hypervisor.contract import DriverContract
from tests.appliance.hypervisor.qemu.plugging import QemuPlugging
from tests.live.images import busybox_layer
from tether.rpc.bridge import LoopThread
from tether.rpc.client import Channel
from tether.rpc.status import RpcError
from tether.transport import Line

Found = TypeVar("Found")
pytestmark = pytest.mark.live


class Hear:
    """The shortest rehearsal: wait until the tether has sent something."""

    layer = Path("none")

    def disks(self, folder: Path) -> tuple[Disk, ...]:
        (folder / "hear.disk").write_bytes(bytes(1 << 20))
        return (Disk(folder / "hear.disk", False),)

    @asynccontextmanager
    async def perform(self, line: Line, kind: MachineSpec, disks: list[GuestDisk]) -> AsyncIterator[trio.Event]:
        await line.read()
        yield trio.Event()
        line.close()


hear = Hear()


@asynccontextmanager
async def opened(root: Path, rehearsal: LocalRehearsal | None = None) -> AsyncIterator[QemuDriver]:
    async with trio.open_nursery() as nursery:
        driver = QemuDriver(root / "machines", default_guest(), "tcg", root / "cache", nursery, rehearsal)
        await driver.connect()
        yield driver
        nursery.cancel_scope.cancel()
    gc.collect()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestQemu(DriverContract):
    """Machines outlive their driver on purpose; subprocess warns of that."""

    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        return opened(root)

    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        os.kill(json.loads((root / "machines" / machine_id / "machine.json").read_text())["pid"], 9)

    async def test_qemu_runs_as_an_unused_user(self, short_path: Path) -> None:
        async with opened(short_path) as driver:
            machine = await driver.create(self.spec(short_path))
            await machine.start()
            pid = json.loads((short_path / "machines/m1/machine.json").read_text())["pid"]
            status = dict(
                line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
            )
            with trio.fail_after(30):
                # The filter is installed while QEMU starts.
                while status["Seccomp"] != "2":
                    await trio.sleep(0.05)
                    text = Path(f"/proc/{pid}/status").read_text()
                    status = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            if not os.geteuid():
                assert int(status["Uid"].split()[0]) >= 0x70000000
                assert int(status["CapEff"], 16) == 0
            assert os.getsid(pid) == pid
            await machine.destroy()

    async def test_a_machine_that_was_not_written_down_is_ended(self, short_path: Path) -> None:
        async with opened(short_path) as driver:
            machine = await driver.create(self.spec(short_path, "orphan"))
            await machine.start()
        state = short_path / "machines/orphan/machine.json"
        content = json.loads(state.read_text())
        state.write_text(json.dumps({**content, "pid": 0}))
        async with opened(short_path) as driver:
            (found,) = await driver.adopt()
            with trio.fail_after(10), contextlib.suppress(ChildProcessError):
                await trio.to_thread.run_sync(os.waitpid, content["pid"], 0)
            assert not Path(f"/proc/{content['pid']}").exists()
            await found.destroy()

    async def test_a_refused_launch_shows_the_command_and_qemus_words(self, short_path: Path) -> None:
        async with opened(short_path) as driver:
            spec = MachineSpec("bad", 256, 1, nic=Nic("no:mac", "172.17.0.0/16", "172.17.0.1", "172.17.255.254"))
            machine = await driver.create(spec)
            await machine.start()
            with trio.fail_after(10):
                await machine.wait_off()
            words = machine.last_words()
            assert "qemu-system-x86_64 -nodefaults" in words
            assert "mac" in words.partition("qemu.log:")[2]
            await machine.destroy()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestPlugging(QemuPlugging):
    """The guest still boots: QEMU needs no guest for disks that come and go."""

    @pytest.fixture(autouse=True)
    def _collected(self) -> Iterator[None]:
        """The process of a machine that the first driver left is forgotten with the test's last frame, and subprocess warns of that.

        Exceptions that a test expects hold frames in a cycle, which otherwise would be found in a later test.
        """
        yield
        gc.collect()

    def open_driver(self, root: Path) -> AbstractAsyncContextManager[QemuDriver]:
        return opened(root)


async def _eventually(look: Callable[[], Found | None]) -> Found:
    """The first result of `look` that is not empty."""
    with trio.fail_after(120):
        while True:
            if found := look():
                return found
            await trio.sleep(0.02)


async def _template(driver: QemuDriver, spec: MachineSpec) -> Template:
    driver.want(spec)
    return await _eventually(lambda: driver.template_for(spec))


@pytest.fixture(scope="module")
def saved_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with a template for machines of 256 MiB without a NIC."""
    root = tmp_path_factory.mktemp("template")

    async def make() -> None:
        async with opened(root, hear) as driver:
            await _template(driver, MachineSpec("m1", 256, 1))
            await _eventually(lambda: list((root / "cache/templates").glob("[!.]*")))

    trio.run(make)
    return root / "cache"


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestClones(DriverContract):
    """The driver contract with machines that are restored from a template."""

    @pytest.fixture(autouse=True)
    def _cache(self, saved_template: Path, short_path: Path) -> None:
        shutil.copytree(saved_template, short_path / "cache", copy_function=_copy_sparse)

    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        @asynccontextmanager
        async def ready() -> AsyncIterator[Driver]:
            async with opened(root, hear) as driver:
                await _template(driver, self.spec(root))
                yield driver

        return ready()

    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        os.kill(json.loads((root / "machines" / machine_id / "machine.json").read_text())["pid"], 9)

    async def test_it_was_restored_and_not_booted(self, short_path: Path) -> None:
        async with self.open_driver(short_path) as driver:
            machine = await driver.create(self.spec(short_path))
            await machine.start()
            line = await machine.dial_tether()
            with trio.fail_after(20):
                assert await line.read()
            line.close()
            folder = short_path / "machines/m1"
            assert "-incoming defer" in (folder / "command").read_text()
            # At boot the firmware writes to the console. A restored guest writes nothing.
            assert (folder / "console.log").read_bytes() == b""
            await machine.destroy()

    async def test_a_template_that_cannot_be_restored_is_dropped_and_the_machine_boots(self, short_path: Path) -> None:
        async with opened(short_path, hear) as driver:
            spec = self.spec(short_path)
            template = await _template(driver, spec)
            # As if another QEMU had saved the state. The state is sealed, so the test replaces the whole file.
            bad = os.memfd_create("bad")
            os.write(bad, b"QEVM" + bytes(1000))
            template.state = bad
            machine = await driver.create(spec)
            await machine.start()
            line = await machine.dial_tether()
            with trio.fail_after(60):
                assert await line.read()
            line.close()
            assert "-incoming" not in (short_path / "machines/m1/command").read_text()
            assert driver.template_for(spec) is None
            assert list((short_path / "cache/templates").iterdir()) == []
            await machine.destroy()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestBecoming:
    """A blank machine of the pool becomes the machine of a container."""

    @pytest.fixture(autouse=True)
    def _cache(self, saved_template: Path, short_path: Path) -> None:
        shutil.copytree(saved_template, short_path / "cache", copy_function=_copy_sparse)

    @asynccontextmanager
    async def blank(self, root: Path) -> AsyncIterator[tuple[QemuDriver, QemuMachine]]:
        async with opened(root, hear) as driver:
            kind = MachineSpec("any", 256, 1)
            await _template(driver, kind)
            machine = await driver.create_blank(kind)
            assert isinstance(machine, QemuMachine)
            yield driver, machine

    def spec(self, root: Path, disks: int = 1) -> MachineSpec:
        for number in range(disks):
            (root / f"m1.disk{number}").write_bytes(b"%d" % number + bytes(1 << 20))
        return MachineSpec("m1", 256, 1, tuple(Disk(root / f"m1.disk{n}", n > 0) for n in range(disks)))

    async def test_it_keeps_its_line_and_takes_the_name(self, short_path: Path) -> None:
        async with self.blank(short_path) as (_, machine):
            line = await machine.dial_tether()
            with trio.fail_after(20):
                assert await line.read()
            await machine.become(self.spec(short_path))
            folder = short_path / "machines/m1"
            assert machine.id == "m1"
            assert "-name vch-blank" in (folder / "command").read_text()
            assert json.loads((folder / "machine.json").read_text())["spec"]["id"] == "m1"
            assert [path.name for path in (short_path / "machines").iterdir()] == ["m1"]
            assert not (folder / "hear.disk").exists()
            line.close()
            line = await machine.dial_tether()
            with trio.fail_after(20):
                assert await line.read()
            line.close()
            await machine.kill()
            await machine.start()
            assert await machine.power() is Power.ON
            await machine.destroy()
            assert not folder.exists()

    async def test_it_is_adopted_under_its_name_and_a_blank_one_is_ended(self, short_path: Path) -> None:
        async with self.blank(short_path) as (driver, machine):
            await machine.become(self.spec(short_path))
            blank = await driver.create_blank(MachineSpec("any", 256, 1))
            assert isinstance(blank, QemuMachine)
            pid = json.loads((blank.folder / "machine.json").read_text())["pid"]
        async with opened(short_path) as driver:
            (found,) = await driver.adopt()
            assert found.id == "m1"
            assert await found.power() is Power.ON
            assert found.guest_disks() == machine.guest_disks()
            # The QEMU is a child of this process, which has not waited for it.
            assert not is_running(pid)
            await found.destroy()
        assert list((short_path / "machines").iterdir()) == []

    async def test_a_machine_that_has_ended_cannot_be_assigned(self, short_path: Path) -> None:
        async with self.blank(short_path) as (_, machine):
            await machine.kill()
            with pytest.raises(HypervisorError):
                await machine.become(self.spec(short_path))
            await machine.destroy()

    async def test_a_disk_that_is_not_there_is_an_error(self, short_path: Path) -> None:
        async with self.blank(short_path) as (_, machine):
            with pytest.raises(HypervisorError, match="No such file"):
                await machine.become(MachineSpec("m1", 256, 1, (Disk(short_path / "none", False),)))
            await machine.destroy()

    async def test_disks_without_a_slot_are_plugged_in(self, short_path: Path) -> None:
        async with self.blank(short_path) as (_, machine):
            await machine.become(self.spec(short_path, disks=11))
            assert machine.guest_disks() == [GuestDisk(ScsiAddress(0, 0, lun)) for lun in (*range(8), 16, 17, 18)]
            async with machine.open_monitor() as monitor:
                blocks = await monitor.execute("query-block")
            assert isinstance(blocks, list)
            # The modules disk is one of them.
            assert len([one for one in blocks if "inserted" in one]) == 1 + 11
            await machine.destroy()


_NETWORK = ("10.77.0.0/24", "10.77.0.1", "10.77.0.254")


@asynccontextmanager
async def _guest(machine: QemuMachine) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """A function that returns when the guest has a NIC with this MAC address, and fails if it has none."""
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        channel = Channel(loop, await machine.dial_tether())
        nursery.start_soon(channel.run)

        async def has_card(mac: str) -> None:
            config = network_pb2.NetworkConfig(interfaces=[network_pb2.Interface(mac=mac, addresses=["10.77.0.9/24"])])
            request = network_pb2.ApplyRequest(config=config)
            await channel.unary("/tether.v1.Network/Apply", request, network_pb2.ApplyResponse, timeout=60)

        yield has_card
        nursery.cancel_scope.cancel()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestCards:
    """NICs beyond the first: plugged in at the start and while the machine runs."""

    async def test_they_come_and_go_while_the_machine_runs(self, short_path: Path) -> None:
        async with opened(short_path) as driver:
            machine = driver.make(MachineSpec("m1", 256, 1))
            await machine.start()
            async with _guest(machine) as has_card:
                for number in range(MOST_MORE_NICS):
                    await machine.plug_nic(Nic(f"02:42:00:00:00:{number:02x}", *_NETWORK))
                for number in range(MOST_MORE_NICS):
                    await has_card(f"02:42:00:00:00:{number:02x}")
                with pytest.raises(HypervisorError, match="has 9 NICs, which is the maximum"):
                    await machine.plug_nic(Nic("02:42:00:00:00:99", *_NETWORK))
                with pytest.raises(HypervisorError, match="has no NIC"):
                    await machine.unplug_nic("02:42:00:00:00:99")
                await machine.unplug_nic("02:42:00:00:00:03")
                with pytest.raises(RpcError, match="no NIC with the MAC address"):
                    await has_card("02:42:00:00:00:03")
                with pytest.raises(HypervisorError):
                    await machine.plug_nic(Nic("nonsense", *_NETWORK))
                # The slot of the removed NIC is free again.
                await machine.plug_nic(Nic("02:42:00:00:00:33", *_NETWORK))
                await has_card("02:42:00:00:00:33")
                assert [nic.mac[-2:] for nic in machine.spec.more_nics if nic] == [
                    "00",
                    "01",
                    "02",
                    "33",
                    "04",
                    "05",
                    "06",
                    "07",
                ]
            await machine.destroy()

    async def test_they_are_known_to_the_next_appliance_and_to_a_saved_state(self, short_path: Path) -> None:
        (short_path / "saved").mkdir()
        async with opened(short_path) as driver:
            machine = driver.make(MachineSpec("m1", 256, 1, nic=Nic("02:42:00:00:00:01", *_NETWORK)))
            await machine.start()
            async with _guest(machine) as has_card:
                for number in (2, 3):
                    await machine.plug_nic(Nic(f"02:42:00:00:00:{number:02x}", *_NETWORK))
                    await has_card(f"02:42:00:00:00:{number:02x}")
                await machine.unplug_nic("02:42:00:00:00:02")
        async with opened(short_path) as driver:
            (found,) = await driver.adopt()
            assert isinstance(found, QemuMachine)
            assert found.spec == machine.spec
            await found.save_to(short_path / "saved", lambda: None, go_on=False)
            await found.start_from(short_path / "saved")
            async with _guest(found) as has_card:
                for number in (1, 3):
                    await has_card(f"02:42:00:00:00:{number:02x}")
                await found.unplug_nic("02:42:00:00:00:03")
                with pytest.raises(RpcError, match="no NIC with the MAC address"):
                    await has_card("02:42:00:00:00:03")
            await found.destroy()

    async def test_a_restored_machine_has_all_of_its_spec(self, short_path: Path) -> None:
        async with opened(short_path, hear) as driver:
            nics = [Nic(f"02:42:00:00:00:{number:02x}", *_NETWORK) for number in range(3)]
            spec = MachineSpec("m1", 256, 1, nic=nics[0], more_nics=tuple(nics[1:]))
            await _template(driver, spec)
            machine = driver.make(spec)
            await machine.start()
            assert machine.slotted
            async with _guest(machine) as has_card:
                for nic in nics[1:]:
                    await has_card(nic.mac)
            await machine.destroy()


def _copy_sparse(source: str, target: str) -> None:
    subprocess.run(["cp", "--sparse=always", "--preserve=mode", source, target], check=True)


# A container that has all rights plays the part of the guest agent: it mounts the disks itself, by their SCSI addresses.
_SCRIPT = """
set -e
mount -t tmpfs t /tmp && cd /tmp && mkdir a
address() { echo /sys/bus/scsi/devices/*:0:$1/block/*/dev; }
node() {
    until [ -e $(address $1) ]; do sleep 0.05; done
    number=$(cat $(address $1))
    rm -f node; mknod node b ${number%:*} ${number#*:}
}
gone() { while [ -e $(address $1) ]; do sleep 0.05; done; }
node 0:0
mount -t ext4 node a && echo kept > a/kept && umount a && echo written
# The host takes the file: the disk stays, and is empty.
until dd if=node bs=4096 count=1 2>/dev/null | cmp -s - /dev/zero -n 4096; do sleep 0.05; done
echo emptied
node 1:2 && mount -t ext4 node a && cat a/kept && umount a && echo read
gone 1:2 && echo gone
mkdir s1 s2
share() { until mount -t virtiofs $1 $2 2>/dev/null; do sleep 0.05; done; }
share vch1 s1 && cat s1/0/name && echo from the guest > s1/0/answer
share vch2 s2 && cat s2/0/name
"""


@asynccontextmanager
async def _lines(machine: QemuMachine, disks: list[int]) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Run the script in a guest, on the disks with these indices; the function waits until the script has printed a line."""
    config = ContainerConfig(cmd=["/bin/sh", "-c", _SCRIPT], env=["PATH=/bin"])
    host_config = HostConfig(privileged=True)
    said: list[str] = []
    more = trio.Event()

    async def read(session: GuestSession) -> None:
        nonlocal more
        found = [machine.guest_disks()[index] for index in disks]
        setup, process = launch_setup("c0ffee", config, host_config, first_layout(found, 0), GuestConfig([]), 0)
        async with session.launch(setup, process, 60) as launched:
            async for records in launched.output():
                said.extend(line for record in records.records for line in record.data.decode().splitlines())
                more.set()
                more = trio.Event()

    async def expect(line: str) -> None:
        with trio.fail_after(30):
            while line not in said:
                await more.wait()

    async with LoopThread.open() as loop:
        session = GuestSession(loop, await machine.dial_tether())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            nursery.start_soon(read, session)
            try:
                yield expect
            except trio.TooSlowError:
                raise AssertionError(f"the script has printed {said}\n{machine.last_words()}") from None
            nursery.cancel_scope.cancel()
        session.close()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_guest_takes_disks_and_shares_and_gives_disks_away(short_path: Path, saved_template: Path) -> None:
    """The guest sees each change, and no data is lost."""
    layer, first, own, kept = (short_path / name for name in ("busybox.erofs", "first.ext4", "own.ext4", "kept.ext4"))
    with open(layer, "w+b") as out:
        write_erofs(io.BytesIO(busybox_layer()).read, out)
    store = LocalDisks(short_path)
    await store.prepare()
    for path in (first, own, kept):
        await store.create(path, SCRATCH)
    for name in ("one", "two"):
        (short_path / name).mkdir()
        (short_path / name / "name").write_text(f"share {name}\n")
    disks = (Disk(first, False), Disk(layer, True), Disk(own, False))
    shutil.copytree(saved_template, short_path / "cache", copy_function=_copy_sparse)
    async with opened(short_path, hear) as driver:
        machine = driver.make(MachineSpec("m1", 256, 1, disks, grows=True))
        await _template(driver, machine.spec)
        await machine.start()
        assert machine.slotted
        async with _lines(machine, [2, 1]) as expect:
            await expect("written")
            await machine.release_disks([first])
            await expect("emptied")
            # Two other disks come first, so that the disk gets another address.
            await machine.plug_disks([Disk(layer, True), Disk(kept, False), Disk(first, False)])
            await expect("read")
            await machine.release_disks([first])
            await expect("gone")
            assert machine.spec.more_disks == (Disk(layer, True), Disk(kept, False))
            for name in ("one", "two"):
                await machine.plug_shares((Share(short_path / name, False),))
            await expect("share two")
            assert (short_path / "one/answer").read_text() == "from the guest\n"
            pid = json.loads((machine.folder / "machine.json").read_text())["pid"]
            held = {os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            assert str(first) not in held
            assert {str(kept), str(own), str(layer)} <= held
        await machine.destroy()
    # The guest's writes are on the disk.
    shown = await trio.run_process(["debugfs", "-R", "cat /kept", str(first)], capture_stdout=True, capture_stderr=True)
    assert shown.stdout == b"kept\n"
    await trio.run_process(["e2fsck", "-fn", str(first)], capture_stdout=True, capture_stderr=True)


async def test_a_template_in_the_making_is_ended_with_the_appliance(short_path: Path) -> None:
    """After a kill -9 the machine that makes the template still runs. The next daemon ends it, and makes the template again."""
    async with opened(short_path, hear) as driver:
        driver.want(MachineSpec("any", 256, 1))
        found = await _eventually(lambda: list((short_path / "machines").glob("template*/command")))
        state = json.loads((found[0].parent / "machine.json").read_text())
        leftover = short_path / "leftover"
        # Without its disk, whose 16 GiB a copy would fill.
        shutil.copytree(found[0].parent, leftover, ignore=lambda *_: ["qmp.sock", "tether.sock", "hear.disk"])
    shutil.copytree(leftover, short_path / "machines/templateleft")
    state["spec"]["id"] = "templateleft"
    (short_path / "machines/templateleft/machine.json").write_text(json.dumps(state))
    async with opened(short_path) as driver:
        assert await driver.adopt() == []
    assert list((short_path / "machines").iterdir()) == []
