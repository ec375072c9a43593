"""A real guest takes further containers and gives them up, asked by its session alone: disks, NICs and namespaces of its own kernel."""

import gc
import io
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from appliance.config import default_guest
from appliance.container.config import ContainerConfig
from appliance.container.guest_paths import GuestPaths
from appliance.container.host_config import HostConfig
from appliance.container.spec import build_spec
from appliance.guest import (
    DiskMount,
    GuestMount,
    GuestSession,
    GuestSetup,
    Interface,
    NetworkConfig,
    OverlayMount,
    PlainMount,
    ProcessSetup,
    ShareMount,
    StateFile,
)
from appliance.guest.containers import GuestContainers
from appliance.guest.setup import GuestAddition
from appliance.hypervisor import SCRATCH, SHARE_TAG, Disk, GuestDisk, LocalDisks, MachineSpec, Nic, Share
from appliance.hypervisor.qemu import QemuDriver
from appliance.image.erofs import write_erofs
from tests.live.daemon import FLAGS
from tests.live.images import busybox_layer
from tether.launch import oci
from tether.launch.layout import ROOT, base_of
from tether.rpc.bridge import LoopThread

pytestmark = pytest.mark.live
_SECONDS = 60.0
_MACS = ("02:42:ac:11:00:02", "02:42:ac:11:00:03")
_SUBNET = ("10.77.0.0/24", "10.77.0.1", "10.77.0.254")
_FILES = [StateFile(name, b"127.0.0.1 localhost\n") for name in ("hosts", "hostname", "resolv.conf")]


def _guest_image() -> Path:
    return Path(FLAGS[FLAGS.index("--guest") + 1]) if "--guest" in FLAGS else default_guest()


def _mounts(paths: GuestPaths, layer: GuestMount, upper: GuestDisk) -> list[GuestMount]:
    return [
        layer,
        DiskMount(f"{paths.base}/upper", "ext4", upper),
        OverlayMount(paths.root, [f"{paths.base}/layers/0"], f"{paths.base}/upper"),
    ]


def _bound_layer(paths: GuestPaths) -> PlainMount:
    return PlainMount(f"{paths.base}/layers/0", "", ["bind", "ro"], f"{ROOT}/layers/0")


def _network(number: int) -> NetworkConfig:
    return NetworkConfig([Interface(_MACS[number], "eth0", [f"10.77.0.{2 + number}/24"], ["10.77.0.1"])])


class _Guest:
    def __init__(self, session: GuestSession, nursery: trio.Nursery) -> None:
        self.session = session
        self._nursery = nursery

    async def start(
        self, setup: GuestSetup | GuestAddition, paths: GuestPaths, script: str, *, shares: str = ""
    ) -> str:
        """Start a container, in namespaces of the container `shares`; return what it prints before a line "done"."""
        container_id = setup.machine_id if isinstance(setup, GuestSetup) else setup.id
        command = f"{script}\necho; echo done; exec sleep 600"
        config = ContainerConfig(cmd=["/bin/sh", "-c", command], env=["PATH=/bin"])
        share = oci.Mount("/share", "bind", f"{ROOT}/shares/0", ("rbind",))
        spec = build_spec(config, HostConfig(), "box", [share], paths)
        process = ProcessSetup(container_id, spec, network_of=shares, pid_of=shares, ipc_of=shares)
        printed = b""
        done = trio.Event()

        async def read() -> None:
            nonlocal printed
            async with self.session.launch(setup, process, _SECONDS) as launched:
                async for output in launched.output():
                    printed += b"".join(record.data for record in output.records)
                    if b"\ndone\n" in printed:
                        done.set()

        self._nursery.start_soon(read)
        with trio.fail_after(_SECONDS):
            await done.wait()
        return printed.decode()


@pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_containers_come_to_a_guest_and_leave_it(short_path: Path) -> None:
    layer, first, second = (short_path / name for name in ("busybox.erofs", "first.ext4", "second.ext4"))
    with open(layer, "w+b") as out:
        write_erofs(io.BytesIO(busybox_layer()).read, out)
    store = LocalDisks(short_path)
    await store.prepare()
    for path in (first, second):
        await store.create(path, SCRATCH)
    (short_path / "share").mkdir()
    shares = (Share(short_path / "share", False),)
    async with AsyncExitStack() as stack:
        driver_nursery = await stack.enter_async_context(trio.open_nursery())
        driver = QemuDriver(short_path / "machines", _guest_image(), "tcg", short_path / "cache", driver_nursery)
        await driver.connect()
        machine = driver.make(
            MachineSpec("m1", 256, 1, (Disk(first, False), Disk(layer, True)), Nic(_MACS[0], *_SUBNET), shares=shares)
        )
        await machine.start()
        loop = await stack.enter_async_context(LoopThread.open())
        session = GuestSession(loop, await machine.dial_tether())
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(session.run)
        guest, containers = _Guest(session, nursery), GuestContainers(session)
        upper, shown_layer = machine.guest_disks()
        own = DiskMount(f"{ROOT}/layers/0", "erofs", shown_layer, ["ro"])
        mounts = _mounts(GuestPaths(), own, upper)
        mounts.append(ShareMount(f"{ROOT}/shares", SHARE_TAG))
        setup = GuestSetup("first", mounts=mounts, network=_network(0), files=_FILES, modules=["virtiofs"])
        # A server at a unix socket in the shared folder, beside a server in the network.
        script = "nc -ll -p 80 -e cat & ln -s /share/log /dev/log; syslogd -O /share/messages"
        await guest.start(setup, GuestPaths(), script)
        assert await containers.supported()

        # A container with the layer of the first, and a disk and a NIC that are plugged in.
        (plugged,) = await machine.plug_disks([Disk(second, False)])
        await machine.plug_nic(Nic(_MACS[1], *_SUBNET))
        paths = GuestPaths(base_of("second"), f"{base_of('second')}/files")
        mounts = _mounts(paths, _bound_layer(paths), plugged)
        addition = GuestAddition("second", "second", mounts, network=_network(1), files=_FILES, own_network=True)
        script = """ip -4 address; ps; echo kept > /file; ln -s /share/log /dev/log; logger well met
            until grep 'well met' /share/messages; do sleep 0.05; done"""
        printed = await guest.start(addition, paths, script)
        assert "10.77.0.3/24" in printed, printed
        assert "10.77.0.2/24" not in printed
        assert "nc -ll" not in printed
        assert "well met" in printed

        # A container in the namespaces of the first, with its hosts and without a disk.
        paths = GuestPaths(base_of("third"))
        tmpfs = PlainMount(f"{paths.base}/upper", "tmpfs")
        root = OverlayMount(paths.root, [f"{paths.base}/layers/0"], f"{paths.base}/upper")
        addition = GuestAddition("third", mounts=[_bound_layer(paths), tmpfs, root])
        script = "ip -4 address; ps; echo hello | nc -w 5 127.0.0.1 80"
        printed = await guest.start(addition, paths, script, shares="first")
        assert "10.77.0.2/24" in printed, printed
        assert "nc -ll" in printed
        assert "\nhello" in printed

        # The first ends, and with it the third, by the kernel. The second runs on.
        assert await containers.remove("first", [upper], [], _SECONDS)
        assert (await session.wait_process("third")).signal == signal.SIGKILL
        await machine.release_disks([first])
        assert await containers.remove("third", [], [], _SECONDS)
        assert set(await session.processes()) == {"second"}
        assert await containers.remove("second", [plugged], [], _SECONDS)
        await machine.release_disks([second])
        await machine.unplug_nic(_MACS[1])
        nursery.cancel_scope.cancel()
        session.close()
        await machine.destroy()
        driver_nursery.cancel_scope.cancel()
    gc.collect()
    shown = await trio.run_process(
        ["debugfs", "-R", "cat /upper/file", str(second)], capture_stdout=True, capture_stderr=True
    )
    assert shown.stdout == b"kept\n"
    for path in (first, second):
        await trio.run_process(["e2fsck", "-fn", str(path)], capture_stdout=True, capture_stderr=True)
