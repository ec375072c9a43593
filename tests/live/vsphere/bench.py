"""Many machines on VMware's simulator: `python -m tests.live.vsphere.bench [MACHINES]`, or `... adopt [MACHINES]`.

Prints the calls for the life of a machine, the time that MACHINES machines take at once, the number of threads, the calls while nothing
happens, and the time and the calls to adopt as many machines. Then the same with govc, if Go is installed. For each update of our
property collector the simulator inspects all machines; it spares govc that work, since each of its waiters sees one task only.
"""

import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from appliance.hypervisor import Machine, MachineSpec
from appliance.hypervisor.vsphere.concentrator import Concentrator
from appliance.hypervisor.vsphere.driver import VsphereDriver
from appliance.hypervisor.vsphere.inventory import Names, find
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import config_of
from tests.live.gotools import govc
from tests.live.vsphere.simulator import PASSWORD, USER, Simulator, running_vcsim, server_of

_IDLE_SECONDS = 10


async def _all_at_once(machines: list[Machine], do: Callable[[Machine], Awaitable[None]]) -> float:
    begun = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for machine in machines:
            nursery.start_soon(do, machine)
    return time.perf_counter() - begun


async def _measure(simulator: Simulator, count: int) -> None:
    server = server_of(simulator)
    names = Names("bench", bridge="VM Network")
    async with trio.open_nursery() as nursery:
        async with VsphereDriver.open(server, names, Concentrator(nursery), "telnet://192.0.2.1:2377") as driver:
            await driver.connect()
            calls: Counter[str] = driver.session.stub.calls
            calls.clear()
            machines: list[Machine] = []
            most_threads = 0

            async def create(number: int) -> None:
                machines.append(await driver.create(MachineSpec(f"{number:08x}" * 8, 256, 1)))

            async def watch_threads() -> None:
                nonlocal most_threads
                while True:
                    most_threads = max(most_threads, threading.active_count())
                    await trio.sleep(0.05)

            nursery.start_soon(watch_threads)
            begun = time.perf_counter()
            async with trio.open_nursery() as making:
                for number in range(count):
                    making.start_soon(create, number)
            created = time.perf_counter() - begun
            started = await _all_at_once(machines, lambda machine: machine.start())
            print(
                f"{count} at once: created in {created:.1f} s, powered on in {started:.1f} s, {most_threads} threads at most"
            )
            before = sum(calls.values())
            await trio.sleep(_IDLE_SECONDS)
            print(
                f"idle for {_IDLE_SECONDS} s: {sum(calls.values()) - before} calls beside the call that waits for updates"
            )
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        async with VsphereDriver.open(server, names, Concentrator(nursery), "telnet://192.0.2.1:2377") as driver:
            begun = time.perf_counter()
            await driver.connect()
            followed = time.perf_counter() - begun
            driver.session.stub.calls.clear()
            begun = time.perf_counter()
            found = await driver.adopt()
            spent, asked = time.perf_counter() - begun, dict(driver.session.stub.calls)
            print(f"{len(found)} adopted in {spent:.1f} s by {asked}; followed after {followed:.1f} s")
            ended = await _all_at_once(found, lambda machine: machine.destroy())
            calls.update(driver.session.stub.calls)
            print(f"destroyed in {ended:.1f} s; calls per life: {sum(calls.values()) / count:.1f} {dict(calls)}")
        nursery.cancel_scope.cancel()


async def _measure_adoption(simulator: Simulator, count: int) -> None:
    """A driver that adopts VMs whose creation was not awaited."""
    server, names = server_of(simulator), Names("many", bridge="VM Network")
    async with Session.open(server) as session:
        inventory = await find(session, names)

        async def make(number: int) -> None:
            spec = MachineSpec(f"{number:08x}" * 8, 256, 1)
            config = config_of(
                spec,
                f"many-{number}",
                "many",
                inventory.datastore_name,
                ("telnet://192.0.2.1:2377", f"vch:{number}"),
                inventory.backing_of,
            )
            await session.change("create", inventory.folder.CreateVM_Task, config, inventory.pool)

        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(make, number)
    async with trio.open_nursery() as nursery:
        begun = time.perf_counter()
        async with VsphereDriver.open(server, names, Concentrator(nursery), "telnet://192.0.2.1:2377") as driver:
            await driver.connect()
            opened = time.perf_counter() - begun
            before = Counter(driver.session.stub.calls)
            begun = time.perf_counter()
            found = await driver.adopt()
            spent = time.perf_counter() - begun
            asked = dict(driver.session.stub.calls - before)
            print(f"{len(found)} adopted in {spent:.1f} s by {asked}, {opened:.1f} s after the login began")
        nursery.cancel_scope.cancel()


async def _measure_govc(simulator: Simulator, count: int, program: Path) -> None:
    """The same by govc: one process for each VM, as many at a time as our driver has threads."""
    environment = {
        **os.environ,
        "GOVC_URL": f"https://{USER}:{PASSWORD}@{simulator.address}/sdk",
        "GOVC_INSECURE": "1",
        "GOVC_PERSIST_SESSION": "0",
    }
    limit = trio.CapacityLimiter(16)

    async def run(number: int, words: list[str]) -> None:
        async with limit:
            name = f"govc-{number}"
            command = [str(program), *(name if word == "NAME" else word for word in words)]
            await trio.run_process(command, env=environment, capture_stdout=True, capture_stderr=True)

    network = ["-net", "VM Network"]
    for what, words in (
        ("created", ["vm.create", "-m", "256", "-c", "1", *network, "-on=false", "NAME"]),
        ("powered on", ["vm.power", "-on", "NAME"]),
        ("destroyed", ["vm.destroy", "NAME"]),
    ):
        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(run, number, words)
        print(f"govc: {count} {what} in {time.perf_counter() - begun:.1f} s")


def main() -> None:
    if sys.argv[1:2] == ["adopt"]:
        with tempfile.TemporaryDirectory() as folder, running_vcsim(Path(folder)) as simulator:
            trio.run(_measure_adoption, simulator, int(sys.argv[2]) if len(sys.argv) > 2 else 1000)
        return
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as folder, running_vcsim(Path(folder)) as simulator:
        trio.run(_measure, simulator, count)
    program = govc()
    if program is not None:
        with tempfile.TemporaryDirectory() as folder, running_vcsim(Path(folder)) as simulator:
            trio.run(_measure_govc, simulator, count, program)


if __name__ == "__main__":
    main()
