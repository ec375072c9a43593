"""The templates that exist and those that are wanted. A template is made by a machine that boots, rehearses and is saved."""

import hashlib
import logging
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import trio

from appliance.diag import mark
from appliance.errors import HypervisorError, leaves
from appliance.hypervisor.capabilities import Rehearsal
from appliance.hypervisor.driver import Disk, GuestDisk, MachineSpec
from appliance.hypervisor.qemu.command import BLANK_MAC, Descriptors, Origin, command, template_origin
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.template import Template, TemplateFolder, blank
from tether.transport import Line

log = logging.getLogger(__name__)


class LocalRehearsal(Rehearsal, Protocol):
    """A rehearsal whose disks are files of this host."""

    def disks(self, folder: Path) -> tuple[Disk, ...]:
        """The disks for one rehearsal, as a container has them. The writable disk is created in `folder`."""


TEMPLATE = "template"
_MAKE_SECONDS = 180.0
# After a failure no template of that kind is made for a while. Machines boot meanwhile.
_PAUSE = 300.0
# One silent guest may be an accident, for example of a host without CPU time. A template with as many is not used any more.
_MOST_SILENT = 2
# How long a start waits for a template that is on disk: reading takes a second, a boot without KVM many.
_LOAD_SECONDS = 10.0


class Bootable(Protocol):
    """A machine of the driver, as far as making a template needs it."""

    folder: Path
    spec: MachineSpec

    def launch(self, origin: Origin) -> None: ...
    async def dial_tether(self) -> Line: ...
    def guest_disks(self) -> list[GuestDisk]: ...
    def open_monitor(self) -> AbstractAsyncContextManager[Monitor]: ...
    async def kill(self) -> None: ...
    async def destroy(self) -> None: ...
    def last_words(self) -> str: ...


class Maker(Protocol):
    """The driver. `guest_digest` is the digest of the guest image, `version` is QEMU's."""

    accel: str
    version: str
    guest_digest: str

    def make(self, spec: MachineSpec) -> Bootable: ...


class Templates:
    """`run` makes the wanted templates, one at a time."""

    def __init__(self, driver: Maker, root: Path, rehearsal: LocalRehearsal) -> None:
        self._driver = driver
        self._folder = TemplateFolder(root)
        self._rehearsal = rehearsal
        self._ready: dict[str, Template] = {}
        self._wanted: dict[str, MachineSpec] = {}
        self._not_before: dict[str, float] = {}
        # By the keys of wanted templates: set when the template was read from the disk, or is not there.
        self._read: dict[str, trio.Event] = {}
        self._news = trio.Event()

    # -- for machines ---------------------------------------------------------------------------------------------

    def get(self, spec: MachineSpec) -> Template | None:
        """The template for machines of this kind; None while there is none, and the template is then wanted."""
        key = self._key(spec)
        template = self._ready.get(key)
        if template is None and trio.current_time() >= self._not_before.get(key, 0):
            self._wanted[key] = kind_of(spec)
            self._read.setdefault(key, trio.Event())
            self._news.set()
        return template

    async def find(self, spec: MachineSpec) -> Template | None:
        """As `get`, but a template on disk that is not loaded yet, as after a restart of vchd, is waited for, some seconds at most."""
        template = self.get(spec)
        if template is not None:
            return template
        key = self._key(spec)
        read = self._read.get(key)
        if read is None or not self._folder.holds(key):
            return None
        with trio.move_on_after(_LOAD_SECONDS):
            await read.wait()
        mark("template read")
        return self._ready.get(key)

    def drop(self, template: Template) -> None:
        """Remove a template that does not work, in memory and on disk. Running clones keep their mappings."""
        if self._ready.pop(template.key, None) is not None:
            template.close()
            self._folder.remove(template.key)
            self._not_before[template.key] = trio.current_time() + _PAUSE

    def report_silent(self, template: Template) -> None:
        """Count a restored guest that did not answer, and drop the template when it has given too many."""
        template.silent += 1
        if template.silent >= _MOST_SILENT:
            log.warning("template %s is dropped: %d restored guests did not answer", template.key, template.silent)
            self.drop(template)

    def _key(self, spec: MachineSpec) -> str:
        driver = self._driver
        line = command(
            "qemu",
            driver.accel,
            Path("kernel"),
            Path("initrd"),
            kind_of(spec),
            template_origin(0),
            Descriptors(0, 0, ()),
            Path("console"),
        )
        facts = [driver.version, driver.guest_digest, *line]
        if driver.accel == "kvm":
            facts.append(_host_cpu())
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:24]

    # -- making ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Make the wanted templates, until cancelled."""
        try:
            while True:
                while self._wanted:
                    key, spec = next(iter(self._wanted.items()))
                    try:
                        await self._provide(key, spec)
                    except Exception as error:
                        # Without a template, machines boot.
                        reasons = "; ".join(str(leaf) or repr(leaf) for leaf in leaves(error))
                        log.warning("no template of %d MiB: %s", spec.memory_mib, reasons)
                        self._not_before[key] = trio.current_time() + _PAUSE
                    del self._wanted[key]
                    self._read.pop(key).set()
                self._news = trio.Event()
                await self._news.wait()
        finally:
            for template in self._ready.values():
                template.close()
            self._ready.clear()

    async def _provide(self, key: str, spec: MachineSpec) -> None:
        template = await trio.to_thread.run_sync(self._folder.load, key)
        if template is None:
            self._read[key].set()
            template = await self._make(key, spec)
            self._ready[key] = template
            await trio.to_thread.run_sync(self._folder.save, template)
        self._ready[key] = template

    async def _make(self, key: str, kind: MachineSpec) -> Template:
        spec = MachineSpec(f"{TEMPLATE}{key}", kind.memory_mib, kind.cpus, (), kind.nic)
        template = blank(key, spec.memory_mib)
        machine = self._driver.make(spec)
        started = trio.current_time()
        try:
            machine.spec = replace(spec, disks=self._rehearsal.disks(machine.folder))
            machine.launch(template_origin(template.memory))
            with trio.fail_after(_MAKE_SECONDS):
                # Saved with the line open: a guest without a line looks for a new one only now and then.
                async with (
                    self._rehearsal.perform(await machine.dial_tether(), kind, machine.guest_disks()),
                    machine.open_monitor() as monitor,
                ):
                    # The machine is not stopped first: QEMU lets a machine run at once that was saved while it ran.
                    await monitor.ignore_shared_memory()
                    await monitor.save(template.state, _MAKE_SECONDS)
                await machine.kill()
            template.seal()
        except trio.TooSlowError:
            template.close()
            raise HypervisorError(
                f"the template took more than {_MAKE_SECONDS:.0f} s\n{machine.last_words()}"
            ) from None
        except Exception:
            if words := machine.last_words():
                log.warning("the template's machine: %s", words)
            template.close()
            raise
        except BaseException:
            template.close()
            raise
        finally:
            with trio.CancelScope(shield=True):
                await machine.destroy()
        log.info("template of %d MiB made in %.1f s", spec.memory_mib, trio.current_time() - started)
        return template


def kind_of(spec: MachineSpec) -> MachineSpec:
    """The kind of a machine: what machines of one template have in common."""
    nic = spec.nic
    return MachineSpec(
        TEMPLATE, spec.memory_mib, spec.cpus, nic=replace(nic.kind, mac=BLANK_MAC) if nic is not None else None
    )


def _host_cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "microcode"))}))
