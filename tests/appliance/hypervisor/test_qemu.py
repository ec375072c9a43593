"""The QEMU driver: the contract with real machines, and what is QEMU's own."""

import contextlib
import gc
import json
import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio

from appliance.config import default_guest
from appliance.hypervisor import Card, Disk, Driver, MachineSpec
from appliance.hypervisor.qemu import QemuDriver
from appliance.hypervisor.qemu.command import Descriptors, command
from tests.appliance.hypervisor.contract import DriverContract

pytestmark = pytest.mark.live


@asynccontextmanager
async def opened(root: Path) -> AsyncIterator[Driver]:
    async with trio.open_nursery() as nursery:
        driver = QemuDriver(root / "machines", default_guest(), "tcg", root / "cache", nursery)
        await driver.connect()
        yield driver
        nursery.cancel_scope.cancel()
    gc.collect()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
class TestQemu(DriverContract):
    """Machines outlive their driver on purpose, which subprocess warns of."""

    def open_driver(self, root: Path) -> AbstractAsyncContextManager[Driver]:
        return opened(root)

    async def end_from_outside(self, root: Path, machine_id: str) -> None:
        os.kill(json.loads((root / "machines" / machine_id / "machine.json").read_text())["pid"], 9)

    async def test_qemu_runs_as_nobody_that_anyone_knows(self, short_path: Path) -> None:
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
            spec = MachineSpec("bad", 256, 1, card=Card("no:mac", "172.17.0.0/16", "172.17.0.1", "172.17.255.254"))
            machine = await driver.create(spec)
            await machine.start()
            with trio.fail_after(10):
                await machine.wait_off()
            words = machine.last_words()
            assert "qemu-system-x86_64 -nodefaults" in words
            assert "mac" in words.partition("qemu.log:")[2]
            await machine.destroy()


def test_the_command_line_names_no_container() -> None:
    """What a machine is to become comes over the channel, so that a restored one can become anything."""
    spec = MachineSpec("c" * 64, 256, 2, (Disk(Path("/secret/layer"), True), Disk(Path("/secret/upper"), False)))
    argv = command("qemu", "tcg", Path("k"), Path("i"), spec, Descriptors(3, 4, (5, 6)), Path("con"))
    text = " ".join(argv)
    assert "/secret" not in text
    assert text.count("scsi-hd") == 2
    assert "fd=5,set=1" in text
    assert "read-only=on" in text
    assert "-smp 2" in text
    assert "thread=multi" in text
