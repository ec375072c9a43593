"""Containers are added and removed in a guest that is this machine, in mount and network namespaces of the test's own."""

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import trio

from protos.tether.v1.filesystem_pb2 import Disk, Mount
from protos.tether.v1.network_pb2 import Interface, NetworkConfig
from protos.tether.v1.process_pb2 import CreateRequest
from protos.tether.v1.sandbox_pb2 import AddRequest, ConfigureRequest, RemoveRequest, StateFile
from protos.tether.v1.tunnel_pb2 import ListenRequest, Socket
from tests.tether.isolated import run_isolated
from tether.agent import containers as agent
from tether.agent import files, network
from tether.agent.containers import Containers
from tether.agent.dhcp import Leases
from tether.agent.process_table import Entry, ProcessTable
from tether.agent.reaper import Reaper
from tether.agent.tunnel import TunnelService
from tether.launch.layout import ROOT, base_of
from tether.rpc.status import Code, RpcError
from tether.system import cgroup, linux
from tether.system.rtnetlink import Rtnetlink

_CHILD_SUBREAPER = 36
_MAC = "02:42:ac:11:00:02"


def _root(base: str) -> Mount:
    """This machine's root, in place of a container's."""
    return Mount(target=f"{base}/rootfs", source="/", options=["bind"])


def _process(container_id: str, base: str, *args: str, **fields: Any) -> CreateRequest:
    spec = {
        "ociVersion": "1.0.2",
        "process": {"args": args, "env": ["PATH=/usr/bin:/bin"]},
        "root": {"path": f"{base}/rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": name} for name in ("mount", "pid", "uts", "ipc")]},
    }
    return CreateRequest(id=container_id, spec=json.dumps(spec).encode(), **fields)


def _links() -> list[tuple[int, str, str]]:
    with Rtnetlink() as rtnetlink:
        return [(link.number, link.name, link.mac) for link in rtnetlink.links() if link.name != "lo"]


_taken_down: set[str] = set()


def _links_that_are_taken_down() -> list[tuple[int, str, str]]:
    _taken_down.add(os.readlink("/proc/thread-self/ns/net"))
    return _links()


def _ns(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


class _Guest:
    """The tether's parts that Add, Remove and Launch use."""

    def __init__(self, nursery: trio.Nursery) -> None:
        reaper = Reaper()
        nursery.start_soon(reaper.run)
        self.processes = ProcessTable(nursery, reaper)
        self.tunnel = TunnelService(self.processes.pid_of)
        self.containers = Containers(reaper, self.processes, Leases(nursery, reaper), self.tunnel)

    async def start(self, request: CreateRequest) -> Entry:
        self.processes.create(request)
        return await self.processes.start(request.id, self.containers.own_namespace(request.id))


def _scenario(device: str) -> None:
    linux.prctl(_CHILD_SUBREAPER, 1)
    linux.mount("tmpfs", "/run", "tmpfs")
    os.mkdir(ROOT)
    linux.mount(ROOT, ROOT, None, linux.MS_BIND)
    linux.mount(None, ROOT, None, linux.MS_SHARED)
    linux.mount("cgroup2", "/sys/fs/cgroup", "cgroup2")
    cgroup.ROOT = Path(f"/sys/fs/cgroup/vch-containers-{os.getpid()}")
    cgroup.ROOT.mkdir()
    for module in (files, agent):
        module.block_name = lambda disk: device if disk.lun == 7 else None  # type: ignore[attr-defined]
    network.nics = _links  # type: ignore[attr-defined]
    agent.nics = _links_that_are_taken_down  # type: ignore[attr-defined]
    agent._RELEASE_SECONDS = 0.1
    try:
        trio.run(_add_and_remove)
    finally:
        cgroup.ROOT.rmdir()


async def _add_and_remove() -> None:
    disk = Disk(lun=7)
    async with trio.open_nursery() as nursery:
        guest = _Guest(nursery)
        containers = guest.containers
        with pytest.raises(RpcError, match="this VM is not configured"):
            await containers.add(AddRequest(id="second"))
        await containers.configure(ConfigureRequest(machine_id="first", mounts=[_root(ROOT)]), None, lambda _: None)
        before = os.listdir("/proc/self/fd")
        first = await guest.start(_process("first", ROOT, "sleep", "60"))

        # A container with a disk, a network and a socket of its own.
        base = base_of("second")
        with open("/dev/net/tun", "r+b", buffering=0) as tun:
            fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"plugged0", 0x2 | 0x1000))
            with Rtnetlink() as rtnetlink:
                rtnetlink.set_link(socket.if_nametoindex("plugged0"), mac=_MAC)
            request = AddRequest(
                id="second",
                mounts=[_root(base), Mount(kind=Mount.DISK, target=f"{base}/upper", type="ext4", disk=disk)],
                files=[StateFile(name="hosts", content=b"127.0.0.1 localhost\n")],
                network=NetworkConfig(interfaces=[Interface(name="eth0", mac=_MAC, addresses=["10.9.8.7/24"])]),
                own_network=True,
            )
            await containers.add(request)
            await containers.add(request)
            guest.tunnel.listen(ListenRequest(sockets=[Socket(number=1024, mode=0o600)]))
            # Its output is never read.
            second = await guest.start(_process("second", base, "yes", spool_bytes=4096))
            assert Path(f"{base}/files/hosts").read_text() == "127.0.0.1 localhost\n"
            assert containers.base("second") == base
            assert "eth0" in Path(f"/proc/{second.pid}/net/dev").read_text()
            assert all(_ns(first.pid, kind) != _ns(second.pid, kind) for kind in ("net", "pid", "ipc", "mnt"))

            # A container that shares the network of the second and the processes of the first, and a process beside its first one.
            await containers.add(AddRequest(id="third", mounts=[_root(base_of("third"))]), network_of="second")
            shares = {"network_of": "second", "pid_of": "first", "ipc_of": "first"}
            third = await guest.start(_process("third", base_of("third"), "sleep", "60", **shares))
            assert _ns(third.pid, "net") == _ns(second.pid, "net")
            assert [_ns(third.pid, kind) for kind in ("pid", "ipc")] == [
                _ns(first.pid, kind) for kind in ("pid", "ipc")
            ]
            beside = _process("beside", base_of("third"), "sleep", "60", join="third")
            exec_entry = await guest.start(beside)
            assert all(_ns(exec_entry.pid, kind) == _ns(third.pid, kind) for kind in ("net", "pid", "ipc", "mnt"))

            # The end of a container without a network of its own changes no network.
            await containers.add(AddRequest(id="fourth"))
            with pytest.raises(RpcError, match="container fourth has no network of its own"):
                containers.network("fourth")
            await containers.remove(RemoveRequest(id="fourth"))
            assert _taken_down == set()

            # The first ends: the third, in its pid namespace, is killed by the kernel. The second runs on.
            await containers.remove(RemoveRequest(id="first"))
            await third.ended.wait()
            assert third.exit is not None
            assert (third.exit.signal, second.reaped.is_set()) == (signal.SIGKILL, False)
            assert _taken_down == {_ns(os.getpid(), "net")}
            assert not os.path.ismount(f"{ROOT}/rootfs")
            assert os.path.ismount(f"{base}/rootfs")
            await containers.remove(RemoveRequest(id="third"))
            assert [entry.id for entry in guest.processes.entries()] == ["second"]

            # A neighbour holds a file of the second's disk.
            held = os.open(f"{base}/upper", os.O_RDONLY | os.O_CLOEXEC)
            ending = RemoveRequest(id="second", disks=[disk, Disk(lun=8)], sockets=[1024])
            with pytest.raises(RpcError, match="uses a disk of this container") as caught:
                await containers.remove(ending)
            assert caught.value.code is Code.ABORTED
            assert not guest.processes.entries()
            os.close(held)
            await containers.remove(ending)
            await containers.remove(ending)
        assert not os.path.exists(f"{ROOT}/sockets/1024")
        assert os.listdir(f"{ROOT}/containers") == []
        with pytest.raises(RpcError) as caught:
            containers.network("second")
        assert caught.value.code is Code.NOT_FOUND

        # An Add that fails leaves nothing.
        bad = AddRequest(
            id="fourth", own_network=True, mounts=[_root(base_of("fourth")), Mount(target="/x", type="no")]
        )
        with pytest.raises(RpcError, match="mount no:/x: no such device"):
            await containers.add(bad)
        assert os.listdir(f"{ROOT}/containers") == []
        assert os.listdir("/proc/self/fd") == before
        assert list(cgroup.ROOT.glob("container-*")) == []
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/net/tun"), reason="needs root and /dev/net/tun")
def test_containers_come_and_go(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", image], check=True)
    attached = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=False)
    if attached.returncode:
        pytest.skip(attached.stderr)
    device = attached.stdout.strip()
    try:
        run_isolated(_scenario, device.removeprefix("/dev/"), namespaces=("--mount", "--net"))
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"id": ""}, "a container id is 1 to 128"),
        ({"id": ".."}, "a container id is 1 to 128"),
        ({"id": "a/b"}, "a container id is 1 to 128"),
        ({"id": "x", "network": NetworkConfig(filter=b"x")}, "NICs are for a container with a network of its own"),
        (
            {"id": "x", "own_network": True, "network": NetworkConfig(interfaces=[Interface(set_mac=True)])},
            "set_mac is for the first container's NICs",
        ),
    ],
)
async def test_malformed_requests(fields: dict[str, Any], text: str) -> None:
    containers = Containers(None, None, None, None)  # type: ignore[arg-type]
    with pytest.raises(RpcError, match=text) as caught:
        await containers.add(AddRequest(**fields))
    assert caught.value.code is Code.INVALID_ARGUMENT
    if fields["id"] != "x":
        with pytest.raises(RpcError, match=text):
            await containers.remove(RemoveRequest(id=fields["id"]))


async def test_a_network_of_its_own_or_a_shared_one() -> None:
    containers = Containers(None, None, None, None)  # type: ignore[arg-type]
    with pytest.raises(RpcError, match="a network of its own, or shares one"):
        await containers.add(AddRequest(id="x", own_network=True), network_of="y")
    assert not containers._locks
