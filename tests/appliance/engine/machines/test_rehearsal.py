"""A rehearsal: a new guest becomes a container, prints, and is blank again; a guest that cannot is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from appliance.engine.machines.rehearsal import ContainerRehearsal
from appliance.errors import Conflict
from appliance.guest import StartRefused
from appliance.hypervisor import Disk, MachineSpec, Nic
from appliance.hypervisor.fake import FakeDriver, FakeHost
from appliance.network.network_record import Address, Endpoint, NetworkRecord
from protos.tether.v1 import process_pb2
from tests.appliance.engine.guest import Process, ScriptedGuest
from tether.rpc.bridge import LoopThread

NIC = Nic("02:42:0a:0b:00:fe", bridge="-")
NETWORK = NetworkRecord("1", "bridge", "bridge", 0)
ENDPOINT = Endpoint(NETWORK, "", NIC.mac, Address("10.11.0.254", 24, "10.11.0.1"), None, "10.11.0.1", NIC, "eth0")
DISKS = (Disk(Path("/upper"), False), Disk(Path("/layer"), True))
KIND = MachineSpec("m1", 256, 1, DISKS, NIC)


async def _ready(process: Process) -> int:
    process.write("ready\n")
    return 0


async def _silent(_: Process) -> int:
    return 0


async def _failing(process: Process) -> int:
    process.write("ready\n")
    return 1


async def _perform(guest: ScriptedGuest, root: Path, nursery: trio.Nursery, kind: MachineSpec = KIND) -> None:
    async with LoopThread.open() as loop:
        machine = await FakeDriver(FakeHost(nursery, guest)).create(kind)
        await machine.start()
        rehearsal = ContainerRehearsal(loop, root, ENDPOINT)
        async with rehearsal.perform(await machine.dial_tether(), kind, machine.guest_disks()) as ended:
            vm = guest.vms["m1"]
            assert not ended.is_set()
            assert (vm.configured, vm.processes) == (None, {})


async def test_a_guest_rehearses_and_is_blank_again(tmp_path: Path, nursery: trio.Nursery) -> None:
    configured: list[list[str]] = []
    guest = ScriptedGuest(nursery)

    async def ready(process: Process) -> int:
        request = guest.vms["m1"].configured
        assert request is not None
        configured.append([interface.mac for interface in request.network.interfaces])
        assert "virtiofs" in request.modules
        return await _ready(process)

    guest.programs["ready"] = ready
    await _perform(guest, tmp_path, nursery)
    # The first rounds are the slow ones.
    assert configured == [[NIC.mac]] * 3


async def test_a_machine_without_a_network(tmp_path: Path, nursery: trio.Nursery) -> None:
    guest = ScriptedGuest(nursery, ready=_ready)
    await _perform(guest, tmp_path, nursery, replace(KIND, nic=None))
    assert len(guest.launched) == 3


@pytest.mark.parametrize(("program", "output"), [(_silent, "b''"), (_failing, r"b'ready\\n'")])
async def test_a_guest_that_does_not_get_it_right(
    tmp_path: Path, nursery: trio.Nursery, program: object, output: str
) -> None:
    guest = ScriptedGuest(nursery)
    guest.programs["ready"] = program  # type: ignore[assignment]
    with pytest.RaisesGroup(pytest.RaisesExc(Conflict, match=f"^the rehearsal wrote {output}"), flatten_subgroups=True):
        await _perform(guest, tmp_path, nursery)


async def test_a_guest_that_cannot_run_a_process(tmp_path: Path, nursery: trio.Nursery) -> None:
    guest = ScriptedGuest(nursery, ready=_ready)
    guest.refusals["ready"] = process_pb2.StartFailure(kind=process_pb2.StartFailure.SETUP)
    with pytest.RaisesGroup(pytest.RaisesExc(StartRefused), flatten_subgroups=True):
        await _perform(guest, tmp_path, nursery)


async def test_the_layer_is_a_program_and_the_directories_of_a_container(tmp_path: Path) -> None:
    async with LoopThread.open() as loop:
        layer = ContainerRehearsal(loop, tmp_path, ENDPOINT).layer
    data = layer.read_bytes()
    # The magic number of EROFS, at its place.
    assert data[1024:1028] == bytes.fromhex("e2e1f5e0")
    assert b"\x7fELF" in data
    assert b"ready\n" in data
    assert [path.name for path in tmp_path.iterdir()] == [layer.name]
