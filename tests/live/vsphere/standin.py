"""A stand-in for ESXi: runs a QEMU for each machine that vcsim only pretends to run.

It watches for machines that are powered on, boots a QEMU with the hardware of their configuration, and connects their serial ports to
the concentrator that the configuration names. When a QEMU ends by itself, the stand-in powers the machine off in vcsim too.

    python -m tests.live.vsphere.standin ADDRESS THUMBPRINT FOLDER BRIDGE direct|cd [NAMESPACE]

runs a stand-in until its standard input ends. It reads commands from standard input, and answers each by a line. `move MACHINE` (a UUID
or a name) simulates a vMotion, `move MACHINE abort` a vMotion that is aborted. `off MACHINE`, `delete`, `suspend`, `resume`,
`rename MACHINE NAME` and `migrate` do what an operator does in the vSphere client. NICs are connected to BRIDGE; NICs on distributed
portgroups are connected to BRIDGE-d if that bridge exists. An appliance is a vchd in the network namespace NAMESPACE. With `cd` a
machine boots by firmware from its CD, which takes long without KVM; with `direct` QEMU loads the kernel itself.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import trio
from pyVmomi import vim

from appliance.config import default_guest
from appliance.errors import HypervisorError
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.vsphere.collector import Collector, MachineSnapshot
from appliance.hypervisor.vsphere.faults import Gone
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import MACHINE_KEY, is_unassigned
from appliance.hypervisor.vsphere.vmdk import flat_name
from tests.live.vsphere.appliancebody import is_appliance, run_appliance
from tests.live.vsphere.serialport import ABORT, BEGIN, COMPLETE, GOAHEAD, PEER, PEER_OK, SerialPort, connected
from tests.live.vsphere.simulator import PASSWORD, USER

# Suffix of the name of the bridge for distributed portgroups.
DISTRIBUTED = "-d"
# Key in the extraConfig of an InstantClone: the UUID of the machine whose memory it copies.
SOURCE = "standin.source"
# `no_timer_check`: as for guests of the QEMU driver. A guest that panics at boot is a container that "lost its machine".
_KERNEL = "console=ttyS1 vch.line=ttyS0 reboot=t panic=-1 quiet no_timer_check rdinit=/init"


class StandInHost:
    """All ESXi hosts of a simulator. `nursery` owns the machines' processes."""

    def __init__(
        self, session: Session, folder: Path, nursery: trio.Nursery, bridge: str, boot: str, appliances: str = ""
    ) -> None:
        self._session = session
        self._boot = boot
        self._appliances = appliances
        self._folder = folder
        self._bridge = bridge
        self._nursery = nursery
        self.collector = Collector(session, session.content.rootFolder, self._on_change)
        self._running: dict[str, trio.CancelScope] = {}
        self._bodies: dict[str, _Body] = {}

    def _on_change(self, key: str, snapshot: MachineSnapshot | None) -> None:
        if snapshot is not None and snapshot.on and key not in self._running:
            scope = self._running[key] = trio.CancelScope()
            self._nursery.start_soon(self._run, key, snapshot.reference, scope)
        elif (snapshot is None or not snapshot.on) and key in self._running:
            self._running.pop(key).cancel()
        if snapshot is not None and (body := self._bodies.get(key)) is not None:
            body.sleep(snapshot.suspended)

    async def _run(self, key: str, reference: Any, scope: trio.CancelScope) -> None:
        ended = False
        with scope:
            config = await self._session.look("stand-in", reference, "config")
            if self._appliances and is_appliance(config):
                await run_appliance(self._session, reference, config, self._folder / key, self._appliances)
                return
            devices = partial(self._session.look, "stand-in", reference, "config.hardware.device")
            body = self._bodies[key] = _Body(
                config, await self._datastores(), self._folder / key, self._bridge, self._boot, devices
            )
            source = next((one.value for one in config.extraConfig if one.key == SOURCE), None)
            await body.run(next((one for one in self._bodies.values() if one.uuid == source), None))
            ended = True
        self._bodies.pop(key, None)
        if ended:
            with contextlib.suppress(HypervisorError):
                await self._session.change("stand-in", reference.PowerOff)

    async def _datastores(self) -> dict[str, str]:
        """The directory of each datastore of the simulator, by name."""
        content = self._session.content
        view = await self._session.change(
            "stand-in", content.viewManager.CreateContainerView, content.rootFolder, [vim.Datastore], True
        )
        members = await self._session.look("stand-in", view, "view")
        found = await self._session.properties("stand-in", members, ["name", "summary.url"])
        await self._session.change("stand-in", view.DestroyView)
        return {facts["name"]: facts["summary.url"] for facts in found.values()}

    async def _key_of(self, machine: str) -> str:
        """The key of a running machine, which `machine` names by vCenter's UUID or by its name."""
        for key, body in self._bodies.items():
            # Poll: the simulator reports no event when a reconfiguration changes the name.
            name = await self._session.look("stand-in", self.collector.machines[key].reference, "name")
            if machine in (body.uuid, name):
                return key
        raise AssertionError(f"no machine {machine} runs")

    async def operate(self, what: str, machine: str, *more: str) -> None:
        """What an operator does with a machine: off, delete (with its disks), suspend, resume, rename NAME, migrate."""
        key = await self._key_of(machine)
        reference = self.collector.machines[key].reference
        if what in ("off", "delete"):
            await self.collector.carry_out("operator", reference.PowerOff)
            if what == "delete":
                # vchd destroys a VM that is off, too; either of the two comes first.
                with contextlib.suppress(Gone):
                    await self.collector.carry_out("operator", reference.Destroy)
        elif what == "migrate":
            await self.collector.carry_out("operator", reference.RelocateVM_Task, await self._elsewhere(reference))
        else:
            acts: dict[str, Any] = {
                "suspend": reference.Suspend,
                "resume": reference.PowerOn,
                "rename": reference.Rename,
            }
            await self.collector.carry_out("operator", acts[what], *more)

    async def _elsewhere(self, reference: Any) -> Any:
        """Relocate to another host of the machine's cluster."""
        host = await self._session.look("stand-in", reference, "runtime.host")
        hosts = await self._session.look("stand-in", await self._session.look("stand-in", host, "parent"), "host")
        return vim.vm.RelocateSpec(host=next(one for one in hosts if one != host))

    async def move(self, machine: str, *, give_up: bool = False) -> None:
        """Simulate the vMotion of a machine at its serial port; `give_up` aborts the vMotion before it completes."""
        await self._bodies[await self._key_of(machine)].move(give_up)


class _Body:
    """The QEMU and the serial port of one VM."""

    def __init__(
        self,
        config: Any,
        datastores: dict[str, str],
        folder: Path,
        bridge: str,
        boot: str,
        devices: Callable[[], Awaitable[Any]],
    ) -> None:
        self._bridge = bridge
        self._boot = boot
        self._devices = devices
        self._config = config
        self._datastores = datastores
        self._folder = folder
        self.uuid = str(config.instanceUuid)
        self._process: trio.Process | None = None
        self._machine: trio.SocketStream | None = None
        self._moves: trio.MemorySendChannel[tuple[bool, trio.Event]] | None = None
        self._asleep = False
        self._turned = trio.Event()
        self._state = trio.Event()
        self._saving = trio.Lock()
        self._wanted = trio.Event()
        self._goes_on_from: Path | None = None

    async def save(self) -> Path:
        """Save the present state of memory and devices to a file, and return its path."""
        async with self._saving:
            self._state = trio.Event()
            self._wanted.set()
            await self._state.wait()
            taken = self._folder / f"state-{uuid4()}"
            (self._folder / "state").rename(taken)
            return taken

    def sleep(self, asleep: bool) -> None:
        """Suspend or resume the machine."""
        self._asleep = asleep
        turned, self._turned = self._turned, trio.Event()
        turned.set()

    async def _until(self, *, asleep: bool) -> None:
        while self._asleep != asleep:
            await self._turned.wait()

    async def run(self, source: "_Body | None" = None) -> None:
        """Run the QEMU to its end. A clone starts from the present state of `source`."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # QEMU's sockets need short paths.
        with tempfile.TemporaryDirectory(prefix="vch") as short:
            # Bind before QEMU starts, so that the socket exists when we connect.
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(f"{short}/serial")
            listener.listen(1)
            with listener:
                command = self._command(listener.fileno(), f"{short}/monitor")
                if source is not None:
                    command += ["-S", "-incoming", "defer"]
                    self._goes_on_from = await source.save()
                self._process = await trio.lowlevel.open_process(
                    command, stdin=subprocess.DEVNULL, pass_fds=[listener.fileno()]
                )
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve_port, f"{short}/serial")
                    nursery.start_soon(self._follow, f"{short}/monitor")
                    await self._process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                self.kill()
                with trio.CancelScope(shield=True):
                    await self._process.wait()

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    def _command(self, serial: int, monitor: str) -> list[str]:
        hardware = self._config.hardware
        return [
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-machine",
            "pc",
            "-accel",
            "tcg",
            "-cpu",
            "max,-erms",
            "-smp",
            str(hardware.numCPU),
            "-m",
            f"{hardware.memoryMB}M",
            *self._firmware(),
            "-chardev",
            f"socket,id=serial,fd={serial},server=on,wait=off",
            "-device",
            "isa-serial,chardev=serial",
            "-chardev",
            f"file,id=console,path={self._folder}/console.log",
            "-device",
            "isa-serial,chardev=console",
            "-qmp",
            f"unix:{monitor},server=on,wait=off",
            *self._adapters(),
            *self._disk_arguments(),
            *self._nics(),
        ]

    def _disk_arguments(self) -> list[str]:
        disks = self._disks(self._config.hardware.device).values()
        return [part for disk in disks for part in disk.arguments()]

    def _firmware(self) -> list[str]:
        if self._boot == "direct":
            guest = default_guest()
            boot = ["-kernel", str(guest / "vmlinux"), "-initrd", str(guest / "initrd"), "-append", _KERNEL]
            return [*boot, "-cdrom", str(guest / "guest.iso")]
        devices: list[Any] = self._config.hardware.device
        (cd,) = (one for one in devices if isinstance(one, vim.vm.device.VirtualCdrom))
        (first,) = self._config.bootOptions.bootOrder
        assert isinstance(first, vim.vm.BootOptions.BootableCdromDevice)
        backing: Any = cd.backing
        arguments = ["-cdrom", self._local(backing.fileName), "-boot", "d", "-vga", "std"]
        if self._config.firmware == "efi":
            variables = self._folder / "vars.fd"
            shutil.copyfile("/usr/share/OVMF/OVMF_VARS_4M.fd", variables)
            for name, access in (("/usr/share/OVMF/OVMF_CODE_4M.fd", "readonly=on"), (variables, "readonly=off")):
                arguments += ["-drive", f"if=pflash,format=raw,{access},file={name}"]
        return arguments

    def _nics(self) -> list[str]:
        if not self._bridge:
            return []
        for bridge in (self._bridge, f"{self._bridge}{DISTRIBUTED}"):
            # Our own script, not the ifup script of the host.
            script = self._folder / f"ifup-{bridge}"
            script.write_text(f'#!/bin/sh\nexec ip link set "$1" master {bridge} up\n')
            script.chmod(0o755)
        arguments = []
        for mac, bridge in self._connected(self._config.hardware.device).items():
            arguments += ["-netdev", json.dumps(self._tap(mac, bridge)), "-device", json.dumps(self._nic(mac))]
        return arguments

    def _connected(self, devices: list[Any]) -> dict[str, str]:
        """The bridge of each connected NIC, by MAC address."""
        found = {}
        beside = any(name == f"{self._bridge}{DISTRIBUTED}" for _, name in socket.if_nameindex())
        for nic in devices:
            if isinstance(nic, vim.vm.device.VirtualVmxnet3) and (
                not nic.connectable or nic.connectable.startConnected
            ):
                ports = vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo
                found[str(nic.macAddress)] = self._bridge + (
                    DISTRIBUTED if beside and isinstance(nic.backing, ports) else ""
                )
        return found

    def _tap(self, mac: str, bridge: str) -> dict[str, object]:
        name = mac.replace(":", "")
        return {
            "type": "tap",
            "id": f"n{name}",
            "ifname": f"t{name[2:]}",
            "script": f"{self._folder}/ifup-{bridge}",
            "downscript": "no",
        }

    @staticmethod
    def _nic(mac: str) -> dict[str, object]:
        name = mac.replace(":", "")
        return {"driver": "vmxnet3", "id": f"c{name}", "netdev": f"n{name}", "mac": mac}

    async def _follow(self, path: str) -> None:
        """Carry the configuration over to the QEMU until the QEMU ends."""
        assert self._process is not None
        try:
            await self._carry_over(path)
        except HypervisorError:
            # A QEMU that is killed closes its monitor before its process ends.
            with trio.move_on_after(5):
                await self._process.wait()
            if self._process.returncode is None:
                raise

    async def _carry_over(self, path: str) -> None:
        """Plug and unplug devices as the configuration changes. ESXi does so before the task ends; the simulator does nothing."""
        nics = self._connected(self._config.hardware.device) if self._bridge else {}
        disks = self._disks(self._config.hardware.device)
        stopped = False
        async with contextlib.AsyncExitStack() as stack:
            monitor = await self._open_monitor(path, stack)
            if self._goes_on_from is not None:
                await self._go_on(monitor, self._goes_on_from)
            while True:
                with trio.move_on_after(0.2):
                    await self._turned.wait()
                if stopped != self._asleep:
                    stopped = self._asleep
                    await monitor.execute("stop" if stopped else "cont")
                try:
                    devices = await self._devices() or []
                    await self._plug_disks(monitor, disks, self._disks(devices))
                    if self._bridge:
                        await self._plug_cards(monitor, nics, self._connected(devices))
                    if self._wanted.is_set():
                        await self._save(monitor)
                except HypervisorError as error:
                    print(self.uuid, error, file=sys.stderr, flush=True)

    async def _plug_cards(self, monitor: Monitor, has: dict[str, str], wanted: dict[str, str]) -> None:
        """Plug NICs until `has` equals `wanted`. HypervisorError while an earlier machine holds the tap: the caller tries again."""
        for mac in wanted.keys() - has.keys():
            await monitor.execute("netdev_add", self._tap(mac, wanted[mac]))
            await monitor.execute("device_add", self._nic(mac))
            has[mac] = wanted[mac]
        for mac in has.keys() - wanted.keys():
            name = str(self._nic(mac)["id"])
            await monitor.execute("device_del", {"id": name})
            await monitor.wait_event("DEVICE_DELETED", name)
            await monitor.execute("netdev_del", {"id": self._tap(mac, "")["id"]})
            del has[mac]

    @staticmethod
    async def _plug_disks(monitor: Monitor, has: dict[str, "_BodyDisk"], wanted: dict[str, "_BodyDisk"]) -> None:
        """Plug disks until `has` equals `wanted`."""
        for name in has.keys() - wanted.keys():
            await monitor.execute("device_del", {"id": name})
            await monitor.wait_event("DEVICE_DELETED", name)
            await monitor.execute("blockdev-del", {"node-name": f"{name}-data"})
            del has[name]
        for name in wanted.keys() - has.keys():
            await monitor.execute("blockdev-add", wanted[name].data)
            await monitor.execute("device_add", wanted[name].device)
            has[name] = wanted[name]

    @staticmethod
    async def _go_on(monitor: Monitor, state: Path) -> None:
        """Load the state that another machine saved, and continue from there."""
        fd = os.open(state, os.O_RDONLY | os.O_CLOEXEC)
        state.unlink()
        try:
            await monitor.load(fd, 60)
        finally:
            os.close(fd)
        await monitor.execute("cont")

    async def _save(self, monitor: Monitor) -> None:
        self._wanted = trio.Event()
        state = os.open(self._folder / "state", os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            await monitor.save(state, 60)
        finally:
            os.close(state)
            await monitor.execute("cont")
        self._state.set()

    @staticmethod
    async def _open_monitor(path: str, stack: contextlib.AsyncExitStack) -> Monitor:
        """Connect to the monitor of a QEMU that has been started: it makes the socket, and listens a moment later."""
        failure = HypervisorError(f"QEMU does not listen at {path}")
        with trio.move_on_after(30):
            while True:
                try:
                    if os.path.exists(path):
                        return await stack.enter_async_context(Monitor.open(path))
                except HypervisorError as error:
                    failure = error
                await trio.sleep(0.05)
        raise failure

    def _adapters(self) -> list[str]:
        found = [
            one for one in self._config.hardware.device if isinstance(one, vim.vm.device.ParaVirtualSCSIController)
        ]
        # QEMU's PVSCSI loses part of its state in a migration, so machines that are cloned have a virtio-scsi adapter.
        machine = next(one.value for one in self._config.extraConfig if one.key == MACHINE_KEY)
        model = "virtio-scsi-pci" if is_unassigned(machine) else "pvscsi"
        return [part for one in found for part in ("-device", f"{model},id={_adapter(one.key)}")]

    def _disks(self, devices: list[Any]) -> dict[str, "_BodyDisk"]:
        """The machine's disks by their names in QEMU. A child disk stands for its parent's file on the datastore, read-only."""
        found = {}
        for disk in devices:
            if not isinstance(disk, vim.vm.device.VirtualDisk):
                continue
            backing: Any = disk.backing
            read_only = backing.parent is not None
            path = self._local(backing.parent.fileName if read_only else backing.fileName)
            if not read_only:
                _lengthen(Path(path))
            # Named by controller and unit, since the simulator uses a device key twice.
            name = f"disk{disk.controllerKey}-{disk.unitNumber}"
            data: dict[str, object] = {
                "driver": "raw",
                "node-name": f"{name}-data",
                "read-only": read_only,
                "discard": "ignore" if read_only else "unmap",
                "file": {"driver": "file", "filename": flat_name(path)},
            }
            bus = f"{_adapter(int(disk.controllerKey or 0))}.0"
            device: dict[str, object] = {
                "driver": "scsi-hd",
                "id": name,
                "bus": bus,
                "scsi-id": disk.unitNumber,
                "drive": f"{name}-data",
            }
            found[name] = _BodyDisk(data, device)
        return found

    def _local(self, path: str) -> str:
        """The file in which the simulator stores a path of a datastore ("[NAME] path")."""
        datastore, _, name = path.partition("] ")
        return f"{self._datastores[datastore.removeprefix('[')]}/{name}"

    async def _serve_port(self, path: str) -> None:
        """Carry bytes between the machine and the concentrator that the backing of its serial port names."""
        devices: list[Any] = self._config.hardware.device
        backing: Any = next(one for one in devices if isinstance(one, vim.vm.device.VirtualSerialPort)).backing
        uri = urlsplit(backing.proxyURI)
        assert uri.hostname is not None
        assert uri.port is not None
        where = (uri.hostname, uri.port)
        self._machine = await trio.open_unix_socket(path)
        self._moves, moves = trio.open_memory_channel[tuple[bool, trio.Event]](1)
        async with self._machine:
            while True:
                await self._until(asleep=False)
                async with trio.open_nursery() as nursery:

                    async def hang_up(nursery: trio.Nursery = nursery) -> None:
                        # ESXi disconnects the serial port of a suspended machine.
                        await self._until(asleep=True)
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(hang_up)
                    # Like an ESXi host, connect again when the connection breaks.
                    with contextlib.suppress(OSError):
                        async with connected(where[1], host=where[0]) as port:
                            await port.identify(self.uuid, backing.serviceURI)
                            await self._carry(port, moves, where)
                    nursery.cancel_scope.cancel()
                await trio.sleep(0.2)

    async def _carry(
        self, port: SerialPort, moves: trio.MemoryReceiveChannel[tuple[bool, trio.Event]], where: tuple[str, int]
    ) -> None:
        """Carry bytes until the connection ends. At a move, the machine continues with a connection of the target host."""
        while True:
            move: list[tuple[bool, trio.Event]] = []
            async with trio.open_nursery() as nursery:

                async def wait_for_move(nursery: trio.Nursery = nursery, move: list[Any] = move) -> None:
                    move.append(await moves.receive())
                    nursery.cancel_scope.cancel()

                nursery.start_soon(self._up, port)
                nursery.start_soon(wait_for_move)
                with contextlib.suppress(AssertionError, trio.BrokenResourceError):
                    await self._down(port)
                nursery.cancel_scope.cancel()
            if not move:
                return
            give_up, done = move[0]
            await port.say(BEGIN, b"\0\0\0\1")
            said = await port.hear(GOAHEAD)
            async with connected(where[1], host=where[0]) as target:
                await target.say(PEER, said)
                await target.hear(PEER_OK)
                if give_up:
                    await target.say(ABORT)
                    done.set()
                    continue
                # Bytes that the old host received, and the machine has not read, move with the machine.
                await target.say(COMPLETE)
                target.data[:0] = port.data
                done.set()
                await self._carry(target, moves, where)
                return

    async def _up(self, port: SerialPort) -> None:
        assert self._machine is not None
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._machine.receive_some(65536):
                await port.write(data)

    async def _down(self, port: SerialPort) -> None:
        assert self._machine is not None
        while True:
            first = await port.hear_data(1, forever=True)
            await self._machine.send_all(first + bytes(port.data))
            port.data.clear()

    async def move(self, give_up: bool) -> None:
        assert self._moves is not None
        done = trio.Event()
        await self._moves.send((give_up, done))
        with trio.fail_after(30):
            await done.wait()


@dataclass(frozen=True, slots=True)
class _BodyDisk:
    """A disk as arguments of QEMU's monitor: `blockdev-add` takes `data`, `device_add` takes `device`."""

    data: dict[str, object]
    device: dict[str, object]

    def arguments(self) -> list[str]:
        """The same as options of QEMU's command line."""
        return ["-blockdev", json.dumps(self.data), "-device", json.dumps(self.device)]


def _adapter(key: int) -> str:
    return f"scsi{key}"


def _lengthen(disk: Path) -> None:
    """Extend the disk's file to the size in its descriptor: the simulator leaves it short."""
    sectors = re.search(r"^RW (\d+) ", disk.read_text(), re.M)
    assert sectors is not None
    flat = disk.with_name(flat_name(disk.name))
    if flat.stat().st_size < int(sectors[1]) * 512:
        os.truncate(flat, int(sectors[1]) * 512)


@asynccontextmanager
async def standing_in(
    server: Server, folder: Path, bridge: str = "", boot: str = "direct", appliances: str = ""
) -> AsyncIterator[StandInHost]:
    """A stand-in host for all machines of a simulator. NICs are connected to `bridge`; without a bridge machines have none.

    `appliances` is the network namespace in which appliances run.
    """
    async with Session.open(server) as session, trio.open_nursery() as nursery:
        host = StandInHost(session, folder, nursery, bridge, boot, appliances)
        nursery.start_soon(host.collector.run)
        await host.collector.current.wait()
        yield host
        nursery.cancel_scope.cancel()


async def _main(*arguments: str) -> None:
    address, thumbprint, folder, bridge, boot, *appliances = arguments
    host, _, port = address.rpartition(":")
    server = Server(host, USER, PASSWORD, int(port), thumbprint)
    async with standing_in(server, Path(folder), bridge, boot, *appliances) as stand_in:
        print("ready", flush=True)
        # The read is abandoned when a body fails, so that the failure ends this process and its traceback is printed.
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            what, uuid, *rest = line.split()
            if what == "move":
                await stand_in.move(uuid, give_up=bool(rest))
            else:
                await stand_in.operate(what, uuid, *rest)
            print("done", flush=True)


if __name__ == "__main__":
    trio.run(_main, *sys.argv[1:])
