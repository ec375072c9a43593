"""Configure, reset and awaken, with the system calls that would change this machine recorded instead."""

import time
from pathlib import Path
from typing import Any

import pytest
import trio

from protos.tether.v1 import network_pb2, process_pb2, sandbox_pb2
from tether.agent import containers, machine
from tether.agent.containers import Containers
from tether.agent.machine import SandboxService
from tether.rpc.status import Code, RpcError


class FakeTable:
    """As much of a ProcessTable as `reset` and `shutdown` need."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.prepared = 0
        self.grace: list[float] = []

    def entries(self) -> list[str]:
        return self.running

    def prepare(self) -> None:
        self.prepared += 1

    async def end_all(self, grace: float) -> None:
        self.grace.append(grace)


class Guest:
    """A SandboxService whose effects are in `done`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, files: Path) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.table = FakeTable()
        self.mounts: list[str] = []
        for module in (machine, containers):
            monkeypatch.setattr(module, "ROOT", str(files.parent))
            monkeypatch.setattr(module, "mount_points", lambda _: self.mounts)
        monkeypatch.setattr(
            "tether.agent.machine.socket.sethostname", lambda name: self.done.append(("hostname", name))
        )
        monkeypatch.setattr(
            "tether.agent.machine.linux.set_domainname", lambda name: self.done.append(("domainname", name))
        )
        monkeypatch.setattr(
            "tether.agent.machine.linux.add_entropy", lambda data: self.done.append(("entropy", len(data)))
        )
        monkeypatch.setattr("tether.agent.machine.linux.umount", lambda target: self.done.append(("umount", target)))
        monkeypatch.setattr("tether.agent.machine.linux.power_off", lambda: self.done.append(("power off",)))
        monkeypatch.setattr(
            "tether.agent.machine.time.clock_settime_ns", lambda clock, ns: self.done.append(("clock", clock, ns))
        )
        monkeypatch.setattr("tether.agent.machine.modules.load", lambda name: self.done.append(("module", name)))
        monkeypatch.setattr("tether.agent.machine.network.apply", self._apply)
        monkeypatch.setattr(
            "tether.agent.machine.network.remove", lambda config, _: self.done.append(("remove network", config))
        )
        monkeypatch.setattr("tether.agent.containers.volumes.prepare", self._prepare)
        monkeypatch.setattr(containers, "make_mount", self._mount)
        monkeypatch.setattr(machine, "close_tcp", lambda: 3)
        made = Containers(None, self.table, None, None)  # type: ignore[arg-type]
        self.service = SandboxService(nursery, self.table, None, None, [("ready", 5)], made)  # type: ignore[arg-type]

    async def _apply(self, config: network_pb2.NetworkConfig, *_: object) -> None:
        self.done.append(("network", len(config.interfaces)))

    async def _prepare(self, volumes: Any, _: object, *, show: bool, **__: object) -> None:
        self.done.append(("volumes", len(volumes), show))

    async def _mount(self, _: object, mount: Any) -> None:
        self.done.append(("mount", mount.target))


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery, tmp_path: Path) -> Guest:
    return Guest(monkeypatch, nursery, tmp_path / "files")


def _request(**fields: Any) -> sandbox_pb2.ConfigureRequest:
    made = sandbox_pb2.ConfigureRequest(machine_id="a" * 64, hostname="box", modules=["overlay"], **fields)
    made.mounts.add(target="/run/tether/layers/0")
    made.files.add(name="hosts", content=b"127.0.0.1 localhost\n")
    return made


async def test_configuring_in_order_and_once(guest: Guest, tmp_path: Path) -> None:
    request = _request(wall_clock_ns=7, entropy=bytes(64), domainname="example.org")
    await guest.service.configure(request)
    assert guest.done == [
        ("clock", time.CLOCK_REALTIME, 7),
        ("entropy", 64),
        ("hostname", "box"),
        ("domainname", "example.org"),
        ("module", "overlay"),
        ("mount", "/run/tether/layers/0"),
        ("network", 0),
        ("volumes", 0, True),
    ]
    assert (tmp_path / "files/hosts").read_bytes() == b"127.0.0.1 localhost\n"
    assert guest.service.hello(sandbox_pb2.HelloRequest()).machine_id == "a" * 64
    guest.done.clear()
    # The same request after a lost answer: clock and entropy differ.
    await guest.service.configure(_request(wall_clock_ns=8))
    assert guest.done == []
    with pytest.raises(RpcError) as caught:
        await guest.service.configure(sandbox_pb2.ConfigureRequest(machine_id="b" * 64))
    assert caught.value.code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../passwd"])
async def test_file_names_are_plain(guest: Guest, name: str) -> None:
    request = sandbox_pb2.ConfigureRequest(machine_id="a", files=[sandbox_pb2.StateFile(name=name)])
    with pytest.raises(RpcError) as caught:
        await guest.service.configure(request)
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_files_are_written_in_place(guest: Guest, tmp_path: Path) -> None:
    await guest.service.configure(_request())
    inode = (tmp_path / "files/hosts").stat().st_ino
    files = [sandbox_pb2.StateFile(name="hosts", content=b"new\n", mode=0o600)]
    await guest.service.awaken(sandbox_pb2.AwakenRequest(files=files))
    info = (tmp_path / "files/hosts").stat()
    assert (info.st_ino, info.st_mode & 0o777) == (inode, 0o600)
    assert (tmp_path / "files/hosts").read_bytes() == b"new\n"


async def test_a_reset_makes_the_guest_blank(guest: Guest, tmp_path: Path) -> None:
    await guest.service.configure(_request())
    guest.done.clear()
    guest.mounts = ["/run/tether/layers/0", "/run/tether/rootfs"]
    guest.table.running = ["one"]
    with pytest.raises(RpcError, match="the VM has processes"):
        await guest.service.reset(sandbox_pb2.ResetRequest())
    guest.table.running = []
    await guest.service.reset(sandbox_pb2.ResetRequest())
    assert [entry for entry in guest.done if entry[0] == "umount"] == [
        ("umount", "/run/tether/rootfs"),
        ("umount", "/run/tether/layers/0"),
    ]
    assert (guest.table.prepared, (tmp_path / "files").exists()) == (1, False)
    assert guest.service.hello(sandbox_pb2.HelloRequest()).machine_id == ""
    await guest.service.configure(sandbox_pb2.ConfigureRequest(machine_id="b" * 64))


async def test_awakening_closes_connections_before_the_network_changes(guest: Guest) -> None:
    await guest.service.configure(_request())
    guest.done.clear()
    network = network_pb2.NetworkConfig(interfaces=[network_pb2.Interface(name="eth0")])
    request = sandbox_pb2.AwakenRequest(close_connections=True, network=network)
    assert (await guest.service.awaken(request)).closed == 3
    assert [entry[0] for entry in guest.done] == ["module", "remove network", "network"]


async def test_another_protocol_is_refused(guest: Guest) -> None:
    with pytest.raises(RpcError, match="this guest speaks protocol 1, not 9"):
        await guest.service.launch(sandbox_pb2.LaunchRequest(protocol=9), None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "fields",
    [
        {"add": sandbox_pb2.AddRequest(id="one"), "configure": sandbox_pb2.ConfigureRequest()},
        {"add": sandbox_pb2.AddRequest(id="other")},
    ],
)
async def test_a_launch_adds_the_container_of_its_process_alone(guest: Guest, fields: dict[str, Any]) -> None:
    request = sandbox_pb2.LaunchRequest(protocol=1, process=process_pb2.CreateRequest(id="one"), **fields)
    with pytest.raises(RpcError, match="`add` is for a further container") as caught:
        await guest.service.launch(request, None)  # type: ignore[arg-type]
    assert caught.value.code is Code.INVALID_ARGUMENT


async def test_the_files_of_a_further_container(guest: Guest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(containers, "base_of", lambda name: f"{tmp_path}/containers/{name}")
    assert guest.service.hello(sandbox_pb2.HelloRequest()).adds
    await guest.service.configure(_request())
    guest.done.clear()
    added = sandbox_pb2.AddRequest(id="second", modules=["nfsv4"], files=[sandbox_pb2.StateFile(name="hosts")])
    await guest.service.add(added)
    await guest.service.add(added)
    assert guest.done == [("module", "nfsv4"), ("volumes", 0, False)]
    files = [sandbox_pb2.StateFile(name="hosts", content=b"new\n")]
    await guest.service.awaken(sandbox_pb2.AwakenRequest(id="second", files=files))
    assert (tmp_path / "containers/second/files/hosts").read_bytes() == b"new\n"
    assert (tmp_path / "files/hosts").read_bytes() == b"127.0.0.1 localhost\n"
    for request, code in (
        (sandbox_pb2.AwakenRequest(id="third", files=files), Code.NOT_FOUND),
        (
            sandbox_pb2.AwakenRequest(
                id="second", network=network_pb2.NetworkConfig(interfaces=[network_pb2.Interface(name="eth0")])
            ),
            Code.INVALID_ARGUMENT,
        ),
    ):
        with pytest.raises(RpcError) as caught:
            await guest.service.awaken(request)
        assert caught.value.code is code


async def test_shutting_down(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with trio.open_nursery() as nursery:
        guest = Guest(monkeypatch, nursery, tmp_path)
        guest.mounts = ["/run/tether/disk"]
        await guest.service.shutdown(sandbox_pb2.ShutdownRequest(grace_ms=1500))
        assert guest.done == [("umount", "/run/tether/disk")]
    assert guest.table.grace == [1.5]
    assert guest.done == [("umount", "/run/tether/disk"), ("power off",)]
