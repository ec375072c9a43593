"""A stand-in for ESXi: gives bodies to the machines that vcsim only says it runs.

It watches for machines that are powered on, boots QEMU with what their configuration says, and connects their serial ports to the
concentrator that the configuration names. One that ends by itself is powered off in vcsim too.

    python -m tests.live.vsphere.standin ADDRESS THUMBPRINT FOLDER BRIDGE direct|cd [NAMESPACE]

runs one until its standard input ends; a line `move MACHINE` (its UUID or name) there moves a machine, `move MACHINE abort` does not
in the end; `off MACHINE`, `delete`, `suspend`, `resume`, `rename MACHINE NAME` and `migrate` are what somebody does in the vSphere
client. Each is answered by a line. BRIDGE is where the machines' NICs are put, BRIDGE-d, if it is there, where those on distributed
portgroups are; an appliance is a vchd in the network namespace NAMESPACE. Firmware and a CD take long without KVM: with `direct` the
kernel that is on it is loaded by QEMU itself.
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
from appliance.hypervisor.vsphere.server import Server
from appliance.hypervisor.vsphere.session import Session
from appliance.hypervisor.vsphere.spec import MACHINE_KEY, is_unassigned
from appliance.hypervisor.vsphere.vmdk import flat_name
from tests.live.vsphere.appliancebody import is_appliance, run_appliance
from tests.live.vsphere.serialport import ABORT, BEGIN, COMPLETE, GOAHEAD, PEER, PEER_OK, SerialPort, connected
from tests.live.vsphere.simulator import PASSWORD, USER

# What the bridge of distributed portgroups is called, after that of the others.
DISTRIBUTED = "-d"
# In extraConfig: of which machine's memory an InstantClone is.
SOURCE = "standin.source"
_KERNEL = "console=ttyS1 vch.line=ttyS0 reboot=t panic=-1 quiet rdinit=/init"


class StandInHost:
    """`nursery` owns the machines' processes."""

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
        """Where the simulator has its datastores, by name."""
        content = self._session.content
        view = await self._session.change(
            "stand-in", content.viewManager.CreateContainerView, content.rootFolder, [vim.Datastore], True
        )
        members = await self._session.look("stand-in", view, "view")
        found = await self._session.properties("stand-in", members, ["name", "summary.url"])
        await self._session.change("stand-in", view.DestroyView)
        return {facts["name"]: facts["summary.url"] for facts in found.values()}

    async def _key_of(self, machine: str) -> str:
        """Of a running machine, by vCenter's UUID of it or its name."""
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
        """Another host of its cluster."""
        host = await self._session.look("stand-in", reference, "runtime.host")
        hosts = await self._session.look("stand-in", await self._session.look("stand-in", host, "parent"), "host")
        return vim.vm.RelocateSpec(host=next(one for one in hosts if one != host))

    async def move(self, machine: str, *, give_up: bool = False) -> None:
        """vMotion of a machine, as its serial port sees it; `give_up` takes it back in the end."""
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
        """Its memory and devices of this moment, in a file."""
        async with self._saving:
            self._state = trio.Event()
            self._wanted.set()
            await self._state.wait()
            taken = self._folder / f"state-{uuid4()}"
            (self._folder / "state").rename(taken)
            return taken

    def sleep(self, asleep: bool) -> None:
        """It is suspended, or not any more."""
        self._asleep = asleep
        turned, self._turned = self._turned, trio.Event()
        turned.set()

    async def _until(self, *, asleep: bool) -> None:
        while self._asleep != asleep:
            await self._turned.wait()

    async def run(self, source: "_Body | None" = None) -> None:
        """Until its QEMU ends; from where `source` is now, if it is a clone."""
        self._folder.mkdir(parents=True, exist_ok=True)
        # QEMU's sockets need short paths.
        with tempfile.TemporaryDirectory(prefix="vch") as short:
            # Bound here, so that it is there when QEMU is.
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
            return ["-kernel", str(guest / "vmlinux"), "-initrd", str(guest / "initrd"), "-append", _KERNEL]
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
        """The NICs that are connected, by MAC, and the bridge that each is on."""
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
        """Plug and unplug what the configuration says. ESXi does it before it says that it is done, the simulator does not."""
        nics = self._connected(self._config.hardware.device) if self._bridge else {}
        disks = self._disks(self._config.hardware.device)
        await self._until_there(path)
        stopped = False
        async with Monitor.open(path) as monitor:
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
        """`has` is what is plugged. HypervisorError while a machine before this one still has its NIC: it is tried again."""
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
        """The same of disks."""
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
        """From what another was."""
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
    async def _until_there(path: str) -> None:
        while not os.path.exists(path):  # noqa: ASYNC110 - QEMU's
            await trio.sleep(0.05)

    def _adapters(self) -> list[str]:
        found = [
            one for one in self._config.hardware.device if isinstance(one, vim.vm.device.ParaVirtualSCSIController)
        ]
        # QEMU's PVSCSI forgets over a migration how much it has told its guest of disks: those that are cloned have another.
        machine = next(one.value for one in self._config.extraConfig if one.key == MACHINE_KEY)
        model = "virtio-scsi-pci" if is_unassigned(machine) else "pvscsi"
        return [part for one in found for part in ("-device", f"{model},id={_adapter(one.key)}")]

    def _disks(self, devices: list[Any]) -> dict[str, "_BodyDisk"]:
        """What the machine's disks, or those that they are children of, have on the datastore, by their names in QEMU."""
        found = {}
        for disk in devices:
            if not isinstance(disk, vim.vm.device.VirtualDisk):
                continue
            backing: Any = disk.backing
            read_only = backing.parent is not None
            path = self._local(backing.parent.fileName if read_only else backing.fileName)
            if not read_only:
                _lengthen(Path(path))
            # By where it is: the simulator gives a key twice.
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
        """A path on a datastore, where the simulator has it."""
        datastore, _, name = path.partition("] ")
        return f"{self._datastores[datastore.removeprefix('[')]}/{name}"

    async def _serve_port(self, path: str) -> None:
        """Carry bytes between the machine and whatever its serial port's backing names."""
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
                        # Who is suspended is not connected.
                        await self._until(asleep=True)
                        nursery.cancel_scope.cancel()

                    nursery.start_soon(hang_up)
                    # A host tries again and again.
                    with contextlib.suppress(OSError):
                        async with connected(where[1], host=where[0]) as port:
                            await port.identify(self.uuid, backing.serviceURI)
                            await self._carry(port, moves, where)
                    nursery.cancel_scope.cancel()
                await trio.sleep(0.2)

    async def _carry(
        self, port: SerialPort, moves: trio.MemoryReceiveChannel[tuple[bool, trio.Event]], where: tuple[str, int]
    ) -> None:
        """Carry bytes until the connection ends; through moves, in which the machine goes on at another connection."""
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
                # What the old host was told and the machine has not taken goes with the machine.
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
    """A disk as QEMU's monitor takes it: what is on it, and the device."""

    data: dict[str, object]
    device: dict[str, object]

    def arguments(self) -> list[str]:
        """The same for its command line."""
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
    """A stand-in host for all machines of a simulator; their NICs are put in a bridge, if there is one.

    `appliances` is the network namespace that an appliance is in.
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
        async for line in trio.wrap_file(sys.stdin):
            what, uuid, *rest = line.split()
            if what == "move":
                await stand_in.move(uuid, give_up=bool(rest))
            else:
                await stand_in.operate(what, uuid, *rest)
            print("done", flush=True)


if __name__ == "__main__":
    trio.run(_main, *sys.argv[1:])
