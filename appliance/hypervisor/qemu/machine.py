"""One machine: a QEMU process that boots, is restored from a template, or continues from a saved state."""

import contextlib
import logging
import os
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import trio

from appliance.diag import mark
from appliance.errors import HypervisorError
from appliance.hypervisor.driver import GuestDisk, MachineSpec, Power, Usage
from appliance.hypervisor.more_disks import used_places
from appliance.hypervisor.qemu import hotplug, machine_logs, nics, saved
from appliance.hypervisor.qemu.command import (
    BOOT,
    SLOTS,
    DiskPlace,
    Origin,
    clone_origin,
    nics_of,
    saved_origin,
    shared_boot_origin,
)
from appliance.hypervisor.qemu.live_devices import LiveDevices
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.process import connect_tether, short, start_qemu
from appliance.hypervisor.qemu.record import MachineRecord
from appliance.hypervisor.qemu.shares import serve
from appliance.hypervisor.qemu.slots import lengthen, luns_of
from appliance.hypervisor.qemu.supervision import QemuProcess
from appliance.hypervisor.qemu.taps import attach
from appliance.hypervisor.qemu.template import Template, copy_memory
from tether.transport import Line

_RESTORE_SECONDS = 30.0
_SAVE_SECONDS = 600.0

log = logging.getLogger(__name__)


class Owner(Protocol):
    """The driver, as far as its machines need it. `guest_digest` is the digest of `guest_files`, `version` is QEMU's."""

    accel: str
    version: str
    guest_digest: str

    @property
    def guest_files(self) -> tuple[Path, Path, Path]: ...
    async def find_template(self, spec: MachineSpec) -> Template | None: ...
    def distrust(self, template: Template) -> None: ...
    def report_silent(self, template: Template) -> None: ...
    def watch(self, machine: "QemuMachine") -> None: ...
    def rename(self, machine: "QemuMachine", spec: MachineSpec) -> Path: ...
    def forget(self, machine: "QemuMachine") -> None: ...
    def why_no_shares(self) -> str: ...


class QemuMachine(LiveDevices):
    """One VM. `folder` is its folder on disk; `slotted` and `modules`: see MachineRecord."""

    unmatched_nics = 1  # a restored machine has the MAC address of the template

    def __init__(
        self, driver: Owner, spec: MachineSpec, folder: Path, *, slotted: bool = False, modules: bool = True
    ) -> None:
        self.id = spec.id
        self.spec = spec
        self.folder = folder
        self.slotted, self.modules = slotted, modules
        self._driver = driver
        self._process = QemuProcess()
        # Names of the taps, by the index of their NIC.
        self._taps: dict[int, str] = {}
        self._monitor_turn = trio.Lock()
        # A line that was dialled before the restored guest ran.
        self._early: Line | None = None
        # The template of the last start.
        self._template: Template | None = None

    # -- ways to start --------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Restore the machine from the template of its kind; boot it when there is no template."""
        self._begin_start()
        template = await self._driver.find_template(self.spec)
        if template is not None:
            try:
                await self.restore(template, sharing=bool(self.spec.shares) or self.spec.grows)
                return
            except HypervisorError as error:
                log.warning("machine %s cannot be restored and boots instead: %s", self.id[:12], error)
                await self.kill()
                self._driver.distrust(template)
        await self._boot()

    def _begin_start(self) -> None:
        if any(disk.released for disk in self.spec.disks):
            raise HypervisorError(f"machine {self.id[:12]} cannot start again: its disks were released")
        # What was plugged in has ended with the guest that used it.
        self.spec = replace(self.spec, more_disks=(), more_shares=())

    @property
    def restored(self) -> bool:
        """See Restorable."""
        return self._template is not None

    async def boot(self) -> None:
        """See Restorable."""
        if self._template is not None:
            self._driver.report_silent(self._template)
        await self.kill()
        self._begin_start()
        await self._boot()

    async def _boot(self) -> None:
        self._template = None
        if not self.spec.shares and not self.spec.grows:
            self.launch(BOOT)
            return
        memory = os.memfd_create("vch-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(memory, self.spec.memory_mib << 20)
            if not self.spec.shares:
                self.launch(shared_boot_origin(memory))
                return
            with serve(self.folder, self.spec.shares) as virtiofsd:
                self.launch(shared_boot_origin(memory), shares=virtiofsd.fileno())
        finally:
            os.close(memory)

    async def become(self, spec: MachineSpec) -> None:
        """See Adaptable."""
        if not self._process.started_here:
            raise HypervisorError(f"machine {self.id} has ended")
        # Whether memory is shared with the host was decided when the machine started.
        rehearsed, self.spec = self.spec.disks, replace(spec, grows=self.spec.grows)
        # The record gets the new name before the folder: a restarted appliance finds either name with a complete record.
        self.save_record()
        folder = self._driver.rename(self, spec)
        self.folder.rename(folder)
        self.folder, self.id = folder, spec.id
        mark("taken from the pool")
        try:
            with trio.fail_after(_RESTORE_SECONDS):
                async with self.open_monitor() as monitor:
                    mark("monitor answers")
                    for lun, disk in zip(luns_of(spec.disks, slotted=True), spec.disks, strict=True):
                        if lun < SLOTS:
                            await hotplug.fill_slot(monitor, lun, disk)
                    await self._plug_rest(monitor)
                    await self._connect_first_nic(monitor)
        except trio.TooSlowError:
            raise HypervisorError(f"QEMU has not plugged in the devices in {_RESTORE_SECONDS:.0f} s") from None
        except OSError as error:
            raise HypervisorError(f"the machine's disks cannot be plugged in: {error}") from error
        for disk in rehearsed:
            (folder / disk.path.name).unlink(missing_ok=True)
        mark("disks plugged in")

    async def restore(self, template: Template, *, sharing: bool) -> None:
        """Start QEMU and load the template's state. With `sharing` a virtiofsd can map the memory."""
        self._template = template
        # Another machine may drop the template meanwhile, so this one has descriptors of its own.
        state, memory = template.open_state(), os.dup(template.memory)
        try:
            if sharing:
                shared = await trio.to_thread.run_sync(copy_memory, memory)
                os.close(memory)
                memory = shared
            self.launch(clone_origin(memory, shares=sharing))
            with trio.move_on_after(_RESTORE_SECONDS):
                # Dialled before the guest runs, so that the guest sees an open line.
                self._early = await self._dial()
                async with self.open_monitor() as monitor:
                    mark("monitor answers")
                    await monitor.ignore_shared_memory()
                    await monitor.execute("getfd", {"fdname": "state"}, fd=state)
                    await monitor.execute("migrate-incoming", {"uri": "fd:state"})
                    # The template was saved while it ran, so QEMU lets the machine run without a command.
                    await monitor.wait_event("RESUME")
                    mark("state restored")
                    await self._plug_rest(monitor)
                    return
        finally:
            os.close(state)
            os.close(memory)
        raise HypervisorError(f"QEMU has not restored the machine in {_RESTORE_SECONDS:.0f} s")

    def launch(self, origin: Origin, files: list[Path] | None = None, shares: int = -1) -> None:
        """Start QEMU. `files` replace the files of the spec's disks; `shares` is the descriptor of a connection to virtiofsd."""
        self.slotted, self.modules = origin.slotted, origin.modules
        luns = luns_of(self.spec.disks, slotted=origin.slotted)
        files = files or [disk.path for disk in self.spec.disks]
        spec = self.spec
        if origin.slotted and origin.memory >= 0:
            # Devices that the template lacks are plugged in once the guest runs.
            at_once = [index for index, lun in enumerate(luns) if lun < SLOTS]
            luns, files = [luns[index] for index in at_once], [files[index] for index in at_once]
            spec = replace(spec, disks=tuple(spec.disks[index] for index in at_once), more_nics=())
        if origin.slotted:
            for lun, file in zip(luns, files, strict=True):
                if lun < SLOTS:
                    lengthen(file)
        driver = self._driver
        child, self._taps = start_qemu(driver.accel, driver.guest_files, spec, files, luns, origin, self.folder, shares)
        self._process.attach(child.pid, child)
        mark("QEMU launched")
        self.save_record()
        driver.watch(self)

    def take_over(self, pid: int) -> None:
        """Adopt the running process of an earlier appliance."""
        self._process.attach(pid)
        self._driver.watch(self)

    # -- disks ----------------------------------------------------------------------------------------------------

    def guest_disks(self) -> list[GuestDisk]:
        return [GuestDisk(DiskPlace(lun).address) for lun in luns_of(self.spec.disks, slotted=self.slotted)]

    async def _plug_rest(self, monitor: Monitor) -> None:
        """Plug in shares, NICs and disks that a template does not have."""
        if self.spec.shares:
            await hotplug.plug_shares(monitor, self.folder, self.spec.shares)
        for place, nic in nics_of(self.spec)[1 if self.spec.nic is not None else 0 :]:
            await nics.plug(monitor, place, nic)
        for lun, disk in zip(luns_of(self.spec.disks, slotted=True), self.spec.disks, strict=True):
            if lun >= SLOTS:
                await hotplug.plug_disk(monitor, DiskPlace(lun), disk)

    async def _connect_first_nic(self, monitor: Monitor) -> None:
        """Put the first NIC of a waiting machine on its network: until now it is on no bridge."""
        nic = self.spec.nic
        if nic is None:
            return
        if nic.bridge:
            attach(self._taps[0], nic.bridge, isolated=nic.isolated)
        await nics.set_forwards(monitor, 0, (), nic.forwards)

    # -- saved state ----------------------------------------------------------------------------------------------

    def _fingerprint(self) -> str:
        facts = (self._driver.version, self._driver.guest_digest)
        return saved.fingerprint(self._driver.accel, facts, self.spec, self.slotted, modules=self.modules)

    async def save_to(self, folder: Path, at_rest: Callable[[], None], *, go_on: bool) -> None:
        """See Checkpointable."""
        if used_places(self.spec) or any(disk.released for disk in self.spec.disks):
            raise HypervisorError("the state of a machine whose disks have changed while it ran cannot be saved")
        saved.check_savable(self.spec)
        writable = [disk.path for disk in self.spec.disks if not disk.read_only]
        with saved.writing(folder) as state:
            async with self.open_monitor() as monitor:
                try:
                    await monitor.execute("stop")
                    at_rest()
                    # A machine that was restored from a template ignores shared memory.
                    await monitor.ignore_shared_memory(False)
                    await monitor.save(state, _SAVE_SECONDS)
                    await trio.to_thread.run_sync(
                        saved.finish, folder, state, writable, self._fingerprint(), self.slotted, self.modules
                    )
                    if not go_on:
                        await self.kill()
                except BaseException:
                    with trio.CancelScope(shield=True):
                        await monitor.let_run()
                    raise
                if go_on:
                    await monitor.let_run()

    async def start_from(self, folder: Path) -> None:
        """See Checkpointable."""
        saved.check_savable(self.spec)
        manifest = await trio.to_thread.run_sync(saved.verify, folder)
        self.slotted, self.modules = manifest.slotted, manifest.modules
        if manifest.facts != self._fingerprint():
            raise HypervisorError(
                "the state was saved by another QEMU version, with another guest, or from a machine of another shape"
            )
        writable = [disk.path for disk in self.spec.disks if not disk.read_only]
        files = {path: path.with_name(f"{path.name}.coming") for path in writable}
        state = os.open(folder / saved.STATE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            await trio.to_thread.run_sync(saved.copy_disks, folder, list(files.values()))
            origin = saved_origin(manifest.slotted, manifest.modules)
            self.launch(origin, [files.get(disk.path, disk.path) for disk in self.spec.disks])
            self._early = await self._dial()
            async with self.open_monitor() as monitor:
                await monitor.load(state, _SAVE_SECONDS)
                # The disks are replaced together with the memory, or not at all.
                for path, coming in files.items():
                    coming.rename(path)
                await monitor.execute("cont")
        except HypervisorError as error:
            raise HypervisorError(f"{error}\n{self.last_words()}") from error
        finally:
            os.close(state)
            for coming in files.values():
                coming.unlink(missing_ok=True)

    async def resume_after_save(self) -> None:
        """Let the machine run that a killed appliance had paused for `save_to`.

        HypervisorError when the appliance was killed during `start_from`.
        """
        async with self.open_monitor() as monitor:
            was_paused = await monitor.let_run()
        if was_paused:
            # QEMU 7.2 may throttle the port for ever when its client vanished meanwhile. The end of another connection mends that.
            (await self._dial()).close()

    def why_no_shares(self) -> str:
        return self._driver.why_no_shares()

    # -- the process ----------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def open_monitor(self) -> AsyncIterator[Monitor]:
        # QEMU serves one client at a time. Only a few others can wait for that, and the connection of a further client fails.
        async with self._monitor_turn:
            with short(self.folder) as folder:
                async with Monitor.open(f"{folder}/qmp.sock") as monitor:
                    yield monitor

    def save_record(self) -> None:
        """Write machine.json."""
        MachineRecord.of(self.spec, self.slotted, self._process.pid, modules=self.modules).save(self.folder)

    async def supervise(self) -> None:
        """Notice the end of the process, whatever caused it."""
        try:
            await self._process.supervise()
        finally:
            self._hang_up()

    def _hang_up(self) -> None:
        """Close the line of a restore that was never dialled."""
        if self._early is not None:
            self._early.close()
            self._early = None

    async def kill(self) -> None:
        self._hang_up()
        await self._process.kill()

    async def wait_off(self) -> None:
        await self._process.wait_off()

    async def destroy(self) -> None:
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._driver.forget(self)

    async def power(self) -> Power:
        return Power.OFF if self._process.off else Power.ON

    async def usage(self) -> Usage:
        return self._process.usage()

    def in_background(self, background: bool) -> None:
        """See Adaptable."""
        self._process.in_background(background)

    # -- the line -------------------------------------------------------------------------------------------------

    async def dial_tether(self) -> Line:
        line, self._early = self._early, None
        return line or await self._dial()

    async def _dial(self) -> Line:
        try:
            return await connect_tether(self.folder)
        except OSError as error:
            raise HypervisorError(f"machine {self.id[:12]} cannot be reached: {error}\n{self.last_words()}") from error

    def last_words(self) -> str:
        return machine_logs.last_words(self.folder)
