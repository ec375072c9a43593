"""A process is awaited and killed, whether this appliance started it or not."""

import subprocess

import trio

from appliance.hypervisor.qemu.supervision import QemuProcess


async def test_the_end_of_a_process_is_noticed() -> None:
    process = QemuProcess()
    assert process.off
    child = subprocess.Popen(["true"])
    process.attach(child.pid, child)
    assert process.started_here
    with trio.fail_after(5):
        await process.supervise()
        await process.wait_off()
    assert process.off
    assert not process.started_here
    assert child.returncode == 0


async def test_a_process_is_killed_without_a_watching_task() -> None:
    process = QemuProcess()
    with subprocess.Popen(["sleep", "60"]) as child:
        process.attach(child.pid, child)
        assert not process.off
        assert process.usage().memory > 0
        with trio.fail_after(5):
            await process.kill()
            await process.kill()
        assert process.off
        assert process.usage().memory == 0


async def test_an_adopted_process_is_killed() -> None:
    process = QemuProcess()
    with subprocess.Popen(["sleep", "60"]) as child:
        process.attach(child.pid)
        assert not process.started_here
        process.in_background(True)
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.supervise)
                await process.kill()
        assert process.off
