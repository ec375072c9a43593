"""One machine: a QEMU process that boots, is restored from a template, or goes on from a saved state."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import trio

from appliance.diag import mark
from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Disk, Forward, GuestDisk, Machine, MachineSpec, Nic, Power, ScsiAddress, Usage
from appliance.hypervisor.facts import encode_spec
from appliance.hypervisor.qemu import nics, saved
from appliance.hypervisor.qemu.command import (
    BLANK_MAC,
    BOOT,
    MOST_MORE_NICS,
    SLOTS,
    Descriptors,
    Origin,
    backing_node,
    clone_origin,
    command,
    disk_device,
    disk_node,
    file_node,
    nics_of,
    saved_origin,
    share_chardev,
    share_device,
    shared_boot_origin,
)
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.process import boot_id, has_ended, short, start_qemu, start_time, usage_of
from appliance.hypervisor.qemu.shares import serve
from appliance.hypervisor.qemu.slots import lengthen, luns_of
from appliance.hypervisor.qemu.taps import attach
from appliance.hypervisor.qemu.template import Template
from tether.transport import Line

_RESTORE_SECONDS = 30.0
_SAVE_SECONDS = 600.0
_GLANCE_SECONDS = 0.02
_UNPLUG_SECONDS = 10.0
_NICE = 10

log = logging.getLogger(__name__)


class Owner(Protocol):
    """The driver, as far as its machines need it. `guest_digest` is that of kernel and initrd, `version` QEMU's."""

    kernel: Path
    initrd: Path
    accel: str
    version: str
    guest_digest: str

    def template_for(self, spec: MachineSpec) -> Template | None: ...
    def distrust(self, template: Template) -> None: ...
    def watch(self, machine: "QemuMachine") -> None: ...
    def rename(self, machine: "QemuMachine", spec: MachineSpec) -> Path: ...
    def forget(self, machine: "QemuMachine") -> None: ...


class QemuMachine(Machine):
    # A template's NIC is nobody's.
    unmatched_nics = 1

    def __init__(self, driver: Owner, spec: MachineSpec, folder: Path, *, slotted: bool = False) -> None:
        self.id = spec.id
        self.spec = spec
        self.folder = folder
        self.slotted = slotted
        self._driver = driver
        self._pid = 0
        self._pidfd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._taps: dict[int, str] = {}
        self._early: Line | None = None
        self._off = trio.Event()
        self._off.set()

    # -- ways to begin --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Restore it from its kind's template, boot it where there is none."""
        template = self._driver.template_for(self.spec)
        if template is not None:
            try:
                await self.restore(template, sharing=bool(self.spec.shares))
                return
            except HypervisorError as error:
                log.warning("machine %s cannot be restored, so it boots: %s", self.id[:12], error)
                await self.kill()
                self._driver.distrust(template)
        await self._boot()

    async def _boot(self) -> None:
        if not self.spec.shares:
            self.launch(BOOT)
            return
        memory = os.memfd_create("vch-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, self.spec.memory_mib << 20)
            with serve(self.folder, self.spec.shares) as virtiofsd:
                self.launch(shared_boot_origin(memory), shares=virtiofsd.fileno())
        finally:
            os.close(memory)

    async def become(self, spec: MachineSpec) -> None:
        """See Adaptable."""
        if self._pidfd < 0 or self._process is None:
            raise HypervisorError(f"machine {self.id} has ended")
        rehearsed, self.spec = self.spec.disks, spec
        # Named before it is moved: an appliance that comes after a kill finds one or the other, whole.
        self.save_facts()
        folder = self._driver.rename(self, spec)
        self.folder.rename(folder)
        self.folder, self.id = folder, spec.id
        mark("taken from the pool")
        try:
            async with self.open_monitor() as monitor:
                mark("monitor answers")
                for lun, disk in zip(luns_of(spec.disks, slotted=True), spec.disks, strict=True):
                    if lun < SLOTS:
                        await self._put_in(monitor, lun, disk)
                await self._plug_rest(monitor)
                await self._connect_first_card(monitor)
        except OSError as error:
            raise HypervisorError(f"its disks cannot be put in: {error}") from error
        for disk in rehearsed:
            (folder / disk.path.name).unlink(missing_ok=True)
        mark("disks put in")

    async def restore(self, template: Template, *, sharing: bool) -> None:
        """Launch, and let it go on from the template's state. `sharing`: its memory is one that a virtiofsd can look into."""
        state = template.open_state()
        memory = await trio.to_thread.run_sync(template.copy_memory) if sharing else os.dup(template.memory)
        try:
            self.launch(clone_origin(memory, shares=sharing))
            mark("QEMU launched")
            # Before the guest goes on, so that to it the line never was closed.
            self._early = await self._dial()
            with trio.move_on_after(_RESTORE_SECONDS):
                async with self.open_monitor() as monitor:
                    mark("monitor answers")
                    await monitor.ignore_shared_memory()
                    await monitor.execute("getfd", {"fdname": "state"}, fd=state)
                    await monitor.execute("migrate-incoming", {"uri": "fd:state"})
                    # A template was saved running, so that it goes on by itself.
                    await monitor.wait_event("RESUME")
                    mark("state restored")
                    await self._plug_rest(monitor)
                    return
        finally:
            os.close(state)
            os.close(memory)
        raise HypervisorError(f"QEMU has not restored it in {_RESTORE_SECONDS} s")

    def launch(self, origin: Origin, files: list[Path] | None = None, shares: int = -1) -> None:
        """Start QEMU; `files` stand in for the spec's disks, `shares` is a connection to virtiofsd."""
        self.slotted = origin.slotted
        luns = luns_of(self.spec.disks, slotted=origin.slotted)
        files = files or [disk.path for disk in self.spec.disks]
        spec = self.spec
        if origin.slotted and origin.memory >= 0:
            # What a template does not have is plugged in once the guest runs.
            at_once = [index for index, lun in enumerate(luns) if lun < SLOTS]
            luns, files = [luns[index] for index in at_once], [files[index] for index in at_once]
            spec = replace(spec, disks=tuple(spec.disks[index] for index in at_once), more_nics=())
        if origin.slotted:
            for lun, file in zip(luns, files, strict=True):
                if lun < SLOTS:
                    lengthen(file)
        driver = self._driver
        guest = (driver.kernel, driver.initrd)
        self._process, self._taps = start_qemu(driver.accel, guest, spec, files, luns, origin, self.folder, shares)
        self._pid = self._process.pid
        self._pidfd = os.pidfd_open(self._pid)
        self._off = trio.Event()
        self.save_facts()
        driver.watch(self)

    def take_over(self, pid: int) -> None:
        """Adopt the running process of an earlier appliance."""
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._off = trio.Event()
        self._driver.watch(self)

    # -- disks ----------------------------------------------------------------------------------------------------

    def guest_disks(self) -> list[GuestDisk]:
        return [GuestDisk(ScsiAddress(0, 0, lun)) for lun in luns_of(self.spec.disks, slotted=self.slotted)]

    async def _plug_rest(self, monitor: Monitor) -> None:
        """The disks that have no slot, the NICs and shares that a template does not have."""
        if self.spec.shares:
            with serve(self.folder, self.spec.shares) as virtiofsd:
                await monitor.execute("getfd", {"fdname": "shares"}, fd=virtiofsd.fileno())
            await monitor.execute("chardev-add", share_chardev("shares"))
            await monitor.execute("device_add", share_device())
        for place, nic in nics_of(self.spec)[1 if self.spec.nic is not None else 0 :]:
            await nics.plug(monitor, place, nic)
        for lun, disk in zip(luns_of(self.spec.disks, slotted=True), self.spec.disks, strict=True):
            if lun >= SLOTS:
                backing = await self._add_file(monitor, lun, disk, 0)
                await monitor.execute("blockdev-add", disk_node(lun, backing, disk.read_only, in_slot=False))
                await monitor.execute("device_add", disk_device(lun))

    async def _put_in(self, monitor: Monitor, lun: int, disk: Disk) -> None:
        lengthen(disk.path)
        backing = await self._add_file(monitor, lun, disk, 1)
        node = disk_node(lun, backing, disk.read_only, in_slot=True)
        await monitor.execute("blockdev-reopen", {"options": [node]})

    async def _add_file(self, monitor: Monitor, lun: int, disk: Disk, generation: int) -> str:
        """Give QEMU the file behind a disk; the name of its node."""
        fd = os.open(disk.path, (os.O_RDONLY if disk.read_only else os.O_RDWR) | os.O_CLOEXEC)
        try:
            await monitor.execute("add-fd", {"fdset-id": lun + 1}, fd=fd)
        finally:
            os.close(fd)
        node = backing_node(lun, file_node(lun), disk.read_only, generation)
        await monitor.execute("blockdev-add", node)
        return str(node["node-name"])

    # -- NICs ----------------------------------------------------------------------------------------------------

    async def _connect_first_card(self, monitor: Monitor) -> None:
        """Give the NIC of a machine of the pool, which is on no network, the one that it shall be on."""
        nic = self.spec.nic
        if nic is None:
            return
        if nic.bridge:
            attach(self._taps[0], nic.bridge, isolated=nic.isolated)
        await nics.set_forwards(monitor, 0, (), nic.forwards)

    async def plug_nic(self, nic: Nic) -> None:
        """See Pluggable."""
        more = list(self.spec.more_nics)
        if None not in more:
            more.append(None)
        place = more.index(None)
        if place >= MOST_MORE_NICS:
            raise HypervisorError(f"machine {self.id[:12]} has {MOST_MORE_NICS + 1} NICs, which is all it can have")
        before = self.spec
        more[place] = nic
        # Written down first, so that an appliance that comes after a kill knows the place as taken.
        self._set_more_nics(more)
        try:
            async with self.open_monitor() as monitor:
                await nics.plug(monitor, place + 1, nic)
        except BaseException:
            self._set_more_nics(before.more_nics)
            raise

    async def unplug_nic(self, mac: str) -> None:
        """See Pluggable."""
        place = next((place for place, nic in nics_of(self.spec) if nic.mac == mac), None)
        if place is None:
            raise HypervisorError(f"machine {self.id[:12]} has no NIC {mac}")
        device = f"card{place}"
        async with self.open_monitor() as monitor:
            await monitor.execute("device_del", {"id": device})
            with trio.move_on_after(_UNPLUG_SECONDS) as patience:
                await monitor.wait_event("DEVICE_DELETED", device)
            if patience.cancelled_caught:
                raise HypervisorError(f"the guest does not let go of its NIC {mac}")
            await monitor.execute("netdev_del", {"id": f"net{place}"})
        if place:
            more = list(self.spec.more_nics)
            more[place - 1] = None
            self._set_more_nics(more)
        else:
            self.spec = replace(self.spec, nic=None)
            self.save_facts()

    async def set_forwards(self, mac: str, forwards: tuple[Forward, ...]) -> None:
        """See Pluggable."""
        place, nic = next(((place, nic) for place, nic in nics_of(self.spec) if nic.mac == mac), (0, None))
        if nic is None or nic.bridge:
            raise HypervisorError(f"machine {self.id[:12]} has no NIC {mac} that forwards")
        async with self.open_monitor() as monitor:
            await nics.set_forwards(monitor, place, nic.forwards, forwards)
        changed = [self.spec.nic, *self.spec.more_nics]
        changed[place] = replace(nic, forwards=forwards)
        self.spec = replace(self.spec, nic=changed[0])
        self._set_more_nics(changed[1:])

    def _set_more_nics(self, more: Iterable[Nic | None]) -> None:
        self.spec = replace(self.spec, more_nics=tuple(more))
        self.save_facts()

    # -- a state that is kept -------------------------------------------------------------------------------------

    def _facts(self) -> str:
        """What has to be the same for a state to fit: QEMU, guest, devices."""
        driver = self._driver
        # Which addresses its NICs have, the state knows, and the guest is told anew.
        nic, *more = (
            replace(nic.kind, mac=BLANK_MAC) if nic is not None else None
            for nic in (self.spec.nic, *self.spec.more_nics)
        )
        spec = replace(self.spec, id="saved", disks=(), nic=nic, more_nics=tuple(more))
        line = command(
            "qemu",
            driver.accel,
            Path("kernel"),
            Path("initrd"),
            spec,
            saved_origin(self.slotted),
            Descriptors(0, 0, ()),
            Path("console"),
        )
        luns = ",".join(map(str, luns_of(self.spec.disks, slotted=self.slotted)))
        return hashlib.sha256("\0".join([driver.version, driver.guest_digest, luns, *line]).encode()).hexdigest()

    async def save_to(self, folder: Path, at_rest: Callable[[], None], *, go_on: bool) -> None:
        """See Checkpointable."""
        if self.spec.shares:
            raise HypervisorError(
                "the state of a machine that has volumes or paths of the host cannot be kept: virtiofsd does not keep its own"
            )
        writable = [disk.path for disk in self.spec.disks if not disk.read_only]
        with saved.writing(folder) as state:
            async with self.open_monitor() as monitor:
                try:
                    await monitor.execute("stop")
                    at_rest()
                    # One that was restored from a template has it on.
                    await monitor.ignore_shared_memory(False)
                    await monitor.save(state, _SAVE_SECONDS)
                    await trio.to_thread.run_sync(saved.finish, folder, state, writable, self._facts(), self.slotted)
                    if not go_on:
                        await self.kill()
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await monitor.let_go_on()
                    raise
                if go_on:
                    await monitor.let_go_on()

    async def start_from(self, folder: Path) -> None:
        """See Checkpointable."""
        if self.spec.shares:
            raise HypervisorError("a machine with shares cannot go on from a kept state")
        manifest = await trio.to_thread.run_sync(saved.verify, folder)
        self.slotted = manifest.slotted
        if manifest.facts != self._facts():
            raise HypervisorError("it was made by another QEMU, with another guest, or on a machine of another shape")
        writable = [disk.path for disk in self.spec.disks if not disk.read_only]
        files = {path: path.with_name(f"{path.name}.coming") for path in writable}
        state = os.open(folder / saved.STATE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await trio.to_thread.run_sync(saved.copy_disks, folder, list(files.values()))
            self.launch(saved_origin(manifest.slotted), [files.get(disk.path, disk.path) for disk in self.spec.disks])
            self._early = await self._dial()
            async with self.open_monitor() as monitor:
                await monitor.load(state, _SAVE_SECONDS)
                # The disks change with the memory or not at all.
                for path, coming in files.items():
                    coming.rename(path)
                await monitor.execute("cont")
        except HypervisorError as error:
            raise HypervisorError(f"{error}\n{self.last_words()}") from error
        finally:
            os.close(state)
            for coming in files.values():
                coming.unlink(missing_ok=True)

    async def unfreeze(self) -> None:
        """Let a machine go on that an appliance was saving when it was killed. HypervisorError when it was just restoring it."""
        async with self.open_monitor() as monitor:
            stood_still = await monitor.let_go_on()
        if stood_still:
            # QEMU 7.2 can be left with a port that it throttles for ever when its client went away meanwhile; the end of
            # another client's connection sets that right.
            (await self._dial()).close()

    # -- the process ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open_monitor(self) -> AsyncIterator[Monitor]:
        with short(self.folder) as folder:
            async with Monitor.open(f"{folder}/qmp.sock") as monitor:
                yield monitor

    def save_facts(self) -> None:
        """Write down what it is and which process."""
        pid = self._pid
        state = {
            "spec": encode_spec(self.spec),
            "slotted": self.slotted,
            "pid": pid,
            "start_time": start_time(pid) if pid else "",
            "boot_id": boot_id(),
        }
        partial = self.folder / "machine.json.new"
        partial.write_text(json.dumps(state))
        partial.replace(self.folder / "machine.json")

    async def supervise(self) -> None:
        """Notice the end of the process, whoever caused it."""
        try:
            with contextlib.suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._pidfd)
        finally:
            self._hang_up()
        self._finish()

    def _finish(self) -> None:
        """The process has ended."""
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
            self._pid = 0
        if self._process is not None:
            self._process.wait()
        self._off.set()

    def _hang_up(self) -> None:
        """Close a line that nobody has asked for."""
        if self._early is not None:
            self._early.close()
            self._early = None

    async def kill(self) -> None:
        self._hang_up()
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        # Not left to `supervise` alone: when the appliance ends, that has been cancelled already.
        while not self._off.is_set():
            with trio.move_on_after(_GLANCE_SECONDS):
                await self._off.wait()
            if self._pidfd >= 0 and has_ended(self._pidfd):
                self._finish()

    async def wait_off(self) -> None:
        await self._off.wait()

    async def destroy(self) -> None:
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._driver.forget(self)

    async def power(self) -> Power:
        return Power.OFF if self._off.is_set() else Power.ON

    async def usage(self) -> Usage:
        return usage_of(self._pid) if self._pid else Usage(0, 0)

    def in_background(self, background: bool) -> None:
        """See Adaptable. Only root may take it back: without that it never is."""
        if self._process is not None and os.geteuid() == 0:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE if background else 0)

    # -- the line -------------------------------------------------------------------------------------------------

    async def dial_tether(self) -> Line:
        line, self._early = self._early, None
        return line or await self._dial()

    async def _dial(self) -> Line:
        connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short(self.folder) as folder:
                await connection.connect(f"{folder}/tether.sock")
        except OSError as error:
            connection.close()
            raise HypervisorError(f"machine {self.id[:12]} cannot be reached: {error}\n{self.last_words()}") from error
        return Line(connection.detach())

    def last_words(self) -> str:
        words = []
        for name in ("command", "qemu.log", "virtiofsd.log", "console.log"):
            with contextlib.suppress(OSError):
                text = (self.folder / name).read_bytes()[-2000:].decode("utf-8", "replace").strip()
                if text:
                    words.append(f"{name}: {text}")
        return "\n".join(words)
