"""Machines as QEMU processes. The processes outlive the appliance: a restarted appliance finds them with `adopt`.

A machine's folder under `root` holds machine.json (see `record`), two sockets, the console's output and QEMU's own messages. QEMU
gets every file as a descriptor. It runs sandboxed, as a user of its own, in a session of its own.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import trio

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Capacity, Driver, Machine, MachineSpec, Power, own_capacity
from appliance.hypervisor.qemu.command import MOST_PCI_DEVICES
from appliance.hypervisor.qemu.machine import QemuMachine
from appliance.hypervisor.qemu.machine_logs import keep_trimmed
from appliance.hypervisor.qemu.process import PROGRAM, boot_id, identity, running_titles, title, uses
from appliance.hypervisor.qemu.record import MachineRecord
from appliance.hypervisor.qemu.shares import find_virtiofsd
from appliance.hypervisor.qemu.template import Template
from appliance.hypervisor.qemu.templates import TEMPLATE, LocalRehearsal, Templates, kind_of
from appliance.hypervisor.qemu.vfio import PciDevices

log = logging.getLogger(__name__)

_PROBE_SECONDS = 12.0
BLANK = "blank"
_AMPLE_MIB, _SCARCE_MIB = 4096, 1024


class QemuDriver(Driver):
    """`root` holds the machines' folders; `nursery` runs the tasks that watch their processes."""

    def __init__(
        self,
        root: Path,
        guest: Path,
        accel: str,
        cache: Path,
        nursery: trio.Nursery,
        rehearsal: LocalRehearsal | None = None,
    ) -> None:
        self.kernel = guest / "vmlinux"
        self.initrd = guest / "initrd"
        self.modules = guest / "modules.squashfs"
        self.accel = accel
        self._root = root
        self._cache = cache
        self._nursery = nursery
        self._machines: dict[str, QemuMachine] = {}
        self.pci_devices = PciDevices()
        self.version = "unknown"
        self.guest_digest = ""
        # Without a rehearsal there are no templates: every machine boots.
        self._templates = Templates(self, cache / "templates", rehearsal) if rehearsal is not None else None
        self._rehearsal = rehearsal

    async def connect(self) -> None:
        if shutil.which(PROGRAM) is None:
            raise HypervisorError(f"{PROGRAM} is not installed (Debian: apt-get install qemu-system-x86)")
        for file in self.guest_files:
            if not file.exists():
                raise HypervisorError(f"{file} is missing: build the guest with `make setup`")
        # The guest image may be rebuilt while the appliance runs. Its machines keep the image of its start.
        self.kernel, self.initrd, self.modules = (file.resolve() for file in self.guest_files)
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        result = await trio.run_process([PROGRAM, "--version"], capture_stdout=True)
        self.version = result.stdout.decode().split("version ", 1)[-1].split()[0]
        if self.accel == "auto":
            self.accel = await self._choose_acceleration()
        self.guest_digest = await trio.to_thread.run_sync(_digest, self.guest_files)
        if self._templates is not None:
            self._nursery.start_soon(self._templates.run)
        self._nursery.start_soon(keep_trimmed, self._root)

    @property
    def guest_files(self) -> tuple[Path, Path, Path]:
        """The guest image: kernel, initrd, modules disk."""
        return self.kernel, self.initrd, self.modules

    # -- for machines ---------------------------------------------------------------------------------------------

    def template_for(self, spec: MachineSpec) -> Template | None:
        """The template for machines of this kind. None while there is none; the template is then made in the background."""
        if self._templates is None or spec.pci_devices:
            return None
        return self._templates.get(spec)

    async def find_template(self, spec: MachineSpec) -> Template | None:
        """As `template_for`, but waits for a template that is on disk and not loaded yet."""
        if self._templates is None or spec.pci_devices:
            return None
        return await self._templates.find(spec)

    def distrust(self, template: Template) -> None:
        """Drop a template from which a machine could not be restored."""
        if self._templates is not None:
            self._templates.drop(template)

    def report_silent(self, template: Template) -> None:
        """Note that a machine was restored from a template, and that its guest did not answer."""
        if self._templates is not None:
            self._templates.report_silent(template)

    def watch(self, machine: QemuMachine) -> None:
        self._nursery.start_soon(machine.supervise)

    def rename(self, machine: QemuMachine, spec: MachineSpec) -> Path:
        """Know the machine by the id of this spec from now on; return the path for its folder."""
        self.forget(machine)
        self._machines[spec.id] = machine
        return self._root / spec.id

    def forget(self, machine: QemuMachine) -> None:
        if self._machines.pop(machine.id, None) is not None:
            with contextlib.suppress(HypervisorError):
                self.pci_devices.grant(machine.spec.pci_devices, 0)

    # -- for the pool ---------------------------------------------------------------------------------------------

    def want(self, kind: MachineSpec) -> None:
        """See Cloning."""
        self.template_for(kind)

    async def create_blank(self, kind: MachineSpec) -> Machine | None:
        """See Cloning."""
        template = self.template_for(kind)
        if template is None or self._rehearsal is None:
            return None
        machine = self.make(replace(kind_of(kind), id=BLANK + secrets.token_hex(8), grows=kind.grows))
        try:
            machine.spec = replace(machine.spec, disks=self._rehearsal.disks(machine.folder))
            await machine.restore(template, sharing=bool(kind.shares) or kind.grows)
        except BaseException:
            with trio.CancelScope(shield=True):
                await machine.destroy()
            raise
        return machine

    # -- acceleration ---------------------------------------------------------------------------------------------

    async def _choose_acceleration(self) -> str:
        """Choose KVM only if a machine boots with it: /dev/kvm can exist and hang. The answer is cached until the host reboots."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return "tcg"
        facts = (str(self.kernel), str(self.kernel.stat().st_mtime_ns), self.version, boot_id())
        verdict = self._cache / "kvm" / hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]
        if verdict.exists():
            return verdict.read_text()
        self.accel = "kvm"
        answer = "tcg"
        probe = await self.create(MachineSpec(f"probe{os.getpid()}", 256, 1))
        try:
            with trio.move_on_after(_PROBE_SECONDS):
                await probe.start()
                line = await probe.dial_tether()
                try:
                    # The tether's first HELLO: kernel, Python and channel work.
                    if await line.read():
                        answer = "kvm"
                finally:
                    line.close()
        except Exception:
            answer = "tcg"
        finally:
            with trio.CancelScope(shield=True):
                await probe.destroy()
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text(answer)
        return answer

    # -- machines -------------------------------------------------------------------------------------------------

    async def create(self, spec: MachineSpec) -> Machine:
        if spec.pci_devices:
            self._claim(spec)
        return self.make(spec)

    def _claim(self, spec: MachineSpec) -> None:
        """Give the machine of `spec` its PCI devices, or raise HypervisorError. No await, so that no other machine gets them meanwhile."""
        if len(spec.pci_devices) > MOST_PCI_DEVICES:
            raise HypervisorError(f"a machine can have {MOST_PCI_DEVICES} PCI devices of the host at most")
        self.pci_devices.check(spec, [machine.spec for machine in self._machines.values()])
        self.pci_devices.grant(spec.pci_devices, identity(spec.id).get("user", 0))

    def make(self, spec: MachineSpec) -> QemuMachine:
        folder = self._root / spec.id
        folder.mkdir(mode=0o711, exist_ok=True)
        machine = QemuMachine(self, spec, folder)
        machine.save_record()
        self._machines[spec.id] = machine
        return machine

    async def adopt(self) -> list[Machine]:
        found: list[Machine] = []
        running = running_titles()
        for folder in sorted(self._root.iterdir()):
            if folder.name in self._machines:
                continue  # created by this driver
            try:
                record = MachineRecord.load(folder)
            except (OSError, ValueError):
                # An appliance was killed while it created the machine: no process uses the folder.
                shutil.rmtree(folder, ignore_errors=True)
                continue
            spec = record.spec
            machine = QemuMachine(self, spec, folder, slotted=record.slotted, modules=record.modules)
            if pid := record.running_pid:
                with contextlib.suppress(ProcessLookupError):
                    machine.take_over(pid)
            if await machine.power() is Power.OFF:
                # The appliance was killed between the start of the process and its record: the guest was never configured.
                for orphan in running.get(title(spec.id), ()):
                    # Templates of several appliances have the same title.
                    with contextlib.suppress(ProcessLookupError):
                        if uses(orphan, folder):
                            os.kill(orphan, signal.SIGKILL)
            if spec.id.startswith((TEMPLATE, BLANK)):
                await machine.destroy()
                continue
            if await machine.power() is Power.ON:
                try:
                    with trio.fail_after(_PROBE_SECONDS):
                        await machine.resume_after_save()
                except (HypervisorError, trio.TooSlowError) as error:
                    log.warning("machine %s is powered off: %s", spec.id[:12], error)
                    await machine.kill()
            self._machines[spec.id] = machine
            found.append(machine)
        return found

    def why_no_shares(self) -> str:
        """See SharesFolders."""
        if os.geteuid():
            return "virtiofsd needs the rights of root"
        return "" if find_virtiofsd() is not None else "virtiofsd is not installed (Debian: qemu-system-common)"

    def ready_pci_devices(self) -> list[str]:
        """See TakesPciDevices."""
        return self.pci_devices.ready()

    def offered_pci_devices(self) -> str:
        """See TakesPciDevices."""
        return self.pci_devices.offered()

    async def capacity(self) -> Capacity:
        return own_capacity()

    def describe(self) -> dict[str, str]:
        facts = {"Version": self.version, "Accelerator": self.accel, "Guest": self.kernel.parent.name}
        return {"Driver": "qemu", **facts}


def _digest(paths: tuple[Path, ...]) -> str:
    found = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def memory_mib(field: str) -> int:
    """A field of /proc/meminfo, in MiB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) // 1024
    return 0


def default_pool() -> int:
    """The default size of the pool: one machine when the host has ample memory."""
    return 1 if memory_mib("MemTotal") >= _AMPLE_MIB else 0


def has_room() -> bool:
    """Whether the host has memory for a waiting machine."""
    return memory_mib("MemAvailable") >= _SCARCE_MIB
