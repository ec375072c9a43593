"""Sessions with vSphere, and its updates of changed VMs, against VMware's simulator."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from pyVmomi import vim

from appliance import __version__
from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.collector import Collector, MachineSnapshot
from appliance.hypervisor.vsphere.extension import Extension
from appliance.hypervisor.vsphere.faults import AlreadyThere, Gone, LoginRefused, WrongState
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.session import Session
from tests.live.vsphere.simulator import PASSWORD, Simulator, server_of


def _server(simulator: Simulator, **changes: Any) -> Server:
    return replace(server_of(simulator), **changes)


class _World:
    """A session, the objects of the first datacenter, and `changes`: the updates so far as (VM, power state or "gone")."""

    def __init__(self, session: Session, changes: list[tuple[str, str]]) -> None:
        self.session = session
        content = session.content
        datacenter = content.rootFolder.childEntity[0]
        self.folder = datacenter.vmFolder
        self.pool = datacenter.hostFolder.childEntity[0].resourcePool
        self.datastore = datacenter.datastore[0].name
        self.changes = changes

        self._news = trio.Event()

        def on_change(key: str, snapshot: MachineSnapshot | None) -> None:
            changes.append((key, "gone" if snapshot is None else snapshot.power_state or "None"))
            self._news.set()

        self.collector = Collector(session, self.folder, on_change)

    async def hear(self, machine: Any, state: str, seconds: float) -> None:
        """Return when vSphere has reported this state of the machine."""
        with trio.fail_after(seconds):
            while (machine._moId, state) not in self.changes:
                await self._news.wait()
                self._news = trio.Event()

    async def create(self, name: str) -> Any:
        files = vim.vm.FileInfo(vmPathName=f"[{self.datastore}] {name}/{name}.vmx")
        spec = vim.vm.ConfigSpec(name=name, files=files, numCPUs=1, memoryMB=64, guestId="other3xLinux64Guest")
        return await self.collector.carry_out(f"create {name}", self.folder.CreateVM_Task, spec, self.pool)


@asynccontextmanager
async def _world(simulator: Simulator) -> AsyncIterator[_World]:
    async with Session.open(_server(simulator)) as session, trio.open_nursery() as nursery:
        world = await trio.to_thread.run_sync(_World, session, [])
        nursery.start_soon(world.collector.run)
        with trio.fail_after(10):
            await world.collector.current.wait()
        yield world
        nursery.cancel_scope.cancel()


async def test_a_server_with_the_right_certificate(simulator: Simulator) -> None:
    for server in (_server(simulator), _server(simulator, thumbprint="", ca_file=simulator.certificate)):
        async with Session.open(server) as session:
            assert session.describe().startswith("VMware ")
    colons = ":".join(simulator.thumbprint[at : at + 2] for at in range(0, 64, 2)).upper()
    async with Session.open(_server(simulator, thumbprint=colons)):
        pass


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"thumbprint": "ab" * 32}, HypervisorError, ", not (ab)+ as --thumbprint says"),
        ({"thumbprint": "abc"}, InvalidParameter, "--thumbprint: .abc. is neither"),
        ({"thumbprint": ""}, HypervisorError, "cannot be trusted"),
        ({"thumbprint": "", "ca_file": Path("/none")}, InvalidParameter, "--vsphere-ca /none"),
        ({"password": "wrong-secret"}, LoginRefused, "Login failure"),
        ({"port": 1}, HypervisorError, "cannot reach vSphere at 127.0.0.1:1"),
    ],
)
async def test_refusals(simulator: Simulator, changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as raised:
        async with Session.open(_server(simulator, **changes)):
            pass
    assert "wrong-secret" not in str(raised.value)
    assert PASSWORD not in repr(_server(simulator))


async def test_changes_are_reported(simulator: Simulator) -> None:
    async with _world(simulator) as world:
        machine = await world.create("told")
        assert isinstance(machine, vim.VirtualMachine)
        await world.collector.carry_out("power on", machine.PowerOn)
        await world.hear(machine, "poweredOn", 5)
        # Another client changes the VM.
        async with Session.open(_server(simulator)) as other:
            theirs = vim.VirtualMachine(machine._moId, other.stub)
            await other.change("power off", theirs.PowerOff)
            await world.hear(machine, "poweredOff", 1)
            await other.change("destroy", theirs.Destroy)
        await world.hear(machine, "gone", 1)


async def test_faults_become_different_errors(simulator: Simulator) -> None:
    async with _world(simulator) as world:
        machine = await world.create("twice")
        with pytest.raises(AlreadyThere, match=r"create twice: .*(DuplicateName|FileAlreadyExists)"):
            await world.create("twice")
        with pytest.raises(WrongState, match=r"power off: .*InvalidPowerState"):
            await world.collector.carry_out("power off", machine.PowerOff)
        await world.collector.carry_out("destroy", machine.Destroy)
        with pytest.raises(Gone, match="power on"):
            await world.collector.carry_out("power on", machine.PowerOn)


async def test_many_tasks_have_one_waiter(simulator: Simulator) -> None:
    async with _world(simulator) as world:
        world.session.stub.calls.clear()

        async def live(number: int) -> None:
            machine = await world.create(f"many{number}")
            await world.collector.carry_out("on", machine.PowerOn)
            await world.collector.carry_out("off", machine.PowerOff)
            await world.collector.carry_out("destroy", machine.Destroy)

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for number in range(15):
                    nursery.start_soon(live, number)
        calls = world.session.stub.calls
        assert sum(calls.get(name, 0) for name in calls if name.endswith("_Task")) == 60, calls
        assert calls["ModifyListView"] <= 60


async def test_an_ended_session_logs_in_again(simulator: Simulator) -> None:
    async with _world(simulator) as world:
        machine = await world.create("again")
        await trio.to_thread.run_sync(world.session.content.sessionManager.Logout)
        await world.collector.carry_out("on", machine.PowerOn)
        await world.hear(machine, "poweredOn", 20)
        await world.collector.carry_out("off", machine.PowerOff)
        await world.collector.carry_out("destroy", machine.Destroy)


_TOKEN = """<?xml version="1.0" encoding="UTF-8"?>
<saml2:Assertion xmlns:saml2="urn:oasis:names:tc:SAML:2.0:assertion" ID="_1" Version="2.0">
<saml2:Subject><saml2:NameID Format="http://schemas.xmlsoap.org/claims/UPN">vch@VSPHERE.LOCAL</saml2:NameID></saml2:Subject>
</saml2:Assertion>"""


async def test_a_token_logs_in_and_logs_in_again(simulator: Simulator, tmp_path: Path) -> None:
    token = tmp_path / "token.xml"
    token.write_text(_TOKEN)
    async with Session.open(_server(simulator, password="none", token_file=token)) as session:
        current = await session.look("session", session.content.sessionManager, "currentSession")
        assert current.userName == "vch@VSPHERE.LOCAL"
        # The token is sent at the login only, not with each call.
        assert session.stub.samlToken is None
        token.write_text(_TOKEN.replace("vch@", "later@"))
        await session.change("end", session.content.sessionManager.Logout)
        await session.change("view", session.content.viewManager.CreateListView, [])
        current = await session.look("session", session.content.sessionManager, "currentSession")
        assert current.userName == "later@VSPHERE.LOCAL"


@pytest.mark.parametrize("text", ["", "<a/>", "<saml2:Assertion", "not XML"])
async def test_a_malformed_token_file_is_refused(simulator: Simulator, tmp_path: Path, text: str) -> None:
    token = tmp_path / "token.xml"
    token.write_text(text)
    with pytest.raises(InvalidParameter, match="--vsphere-token-file"):
        async with Session.open(_server(simulator, token_file=token)):
            pass


async def test_a_token_without_a_subject_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    token = tmp_path / "token.xml"
    token.write_text('<Assertion xmlns="urn:oasis:names:tc:SAML:2.0:assertion"/>')
    with pytest.raises(LoginRefused):
        async with Session.open(_server(simulator, token_file=token)):
            pass


async def _ticket(simulator: Simulator, folder: Path) -> Path:
    """A file with a clone ticket."""
    async with Session.open(_server(simulator)) as session:
        ticket = await session.change("ticket", session.content.sessionManager.AcquireCloneTicket)
    file = folder / "ticket"
    file.write_text(f"{ticket}\n")
    return file


async def _user_of(session: Session) -> str:
    return str((await session.look("session", session.content.sessionManager, "currentSession")).userName)


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
async def test_an_extension_needs_a_ticket_once(simulator: Simulator, tmp_path: Path) -> None:
    file = await _ticket(simulator, tmp_path)
    extension = Extension("vch.test", tmp_path / "own", file, tunnel_port=0)
    server = _server(simulator, password="none", extension=extension)
    async with Session.open(server) as session:
        assert await _user_of(session) == "vch.test"
        manager = session.content.extensionManager
        assert (await session.read("extension", manager.FindExtension, "vch.test")).version == __version__
        await session.change("end", session.content.sessionManager.Logout)
        await session.change("view", session.content.viewManager.CreateListView, [])
        assert await _user_of(session) == "vch.test"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "own").iterdir()} == {0o600}
    # A registered extension logs in without a ticket. The used ticket is refused.
    async with Session.open(replace(server, extension=replace(extension, ticket_file=None))) as session:
        assert await _user_of(session) == "vch.test"
    with pytest.raises(LoginRefused, match="the ticket was used before, or is too old"):
        async with Session.open(replace(server, extension=replace(extension, folder=tmp_path / "other"))):
            pass
    assert not (tmp_path / "other/extension.pem").exists()
    # With a new ticket, an extension whose certificate is lost is registered again.
    again = replace(extension, folder=tmp_path / "again", ticket_file=await _ticket(simulator, tmp_path))
    async with Session.open(replace(server, extension=again)) as session:
        assert await _user_of(session) == "vch.test"
    # The same when an operator has unregistered the extension.
    async with Session.open(_server(simulator)) as session:
        await session.change("end", session.content.extensionManager.UnregisterExtension, "vch.test")
    with pytest.raises(HypervisorError, match="login"):
        async with Session.open(replace(server, extension=replace(again, ticket_file=None))):
            pass
    mended = replace(again, ticket_file=await _ticket(simulator, tmp_path))
    async with Session.open(replace(server, extension=mended)) as session:
        assert await _user_of(session) == "vch.test"


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
async def test_an_extension_logs_in_through_the_tunnel(simulator: Simulator, tmp_path: Path) -> None:
    asked: list[bytes] = []
    host, _, number = simulator.address.rpartition(":")

    async def tunnel(stream: trio.SocketStream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive_some()
        asked.append(head.split(b"\r\n", 1)[0])
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        async with await trio.open_tcp_stream(host, int(number)) as there, trio.open_nursery() as nursery:
            nursery.start_soon(_pipe, stream, there)
            await _pipe(there, stream)
            nursery.cancel_scope.cancel()

    file = await _ticket(simulator, tmp_path)
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
        nursery.start_soon(trio.serve_listeners, tunnel, [listener])
        extension = Extension("vch.test", tmp_path / "own", file, listener.socket.getsockname()[1])
        async with Session.open(_server(simulator, password="none", extension=extension)) as session:
            assert await _user_of(session) == "vch.test"
        other = _server(simulator, password="none", extension=extension, thumbprint="00" * 32)
        with pytest.raises(HypervisorError, match="cannot be trusted"):
            async with Session.open(other):
                pass
        nursery.cancel_scope.cancel()
    assert asked == [b"CONNECT sdkTunnel:8089 HTTP/1.0"] or asked == [b"CONNECT sdkTunnel:8089 HTTP/1.1"]


async def _pipe(source: trio.SocketStream, target: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in source:
            await target.send_all(data)


@pytest.mark.parametrize("simulator", ["vcenter"], indirect=True)
async def test_an_extension_without_a_ticket_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    for extension, said in (
        (Extension("vch.none", tmp_path), "not registered yet, and --vsphere-ticket-file holds no ticket"),
        (Extension("vch.none", tmp_path, tmp_path / "missing"), "--vsphere-ticket-file .*missing"),
    ):
        with pytest.raises(InvalidParameter, match=said):
            async with Session.open(_server(simulator, extension=extension)):
                pass
