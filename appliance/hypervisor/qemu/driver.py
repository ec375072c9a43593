"""Machines as QEMU processes. They are not tied to this process: kill it, start it again, `adopt` finds them.

A machine's folder under `root` holds machine.json (what it is, which process), its two sockets, its console and QEMU's own
messages. QEMU gets every file as a descriptor and runs as a user of its own, in a session of its own, sandboxed.
"""

import contextlib
import hashlib
import json
import logging
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import trio

from appliance.diag import mark
from appliance.errors import HypervisorError
from appliance.hypervisor.driver import Card, Disk, Driver, Machine, MachineSpec, Power
from appliance.hypervisor.qemu.command import SLOT_BYTES, Descriptors, backing_node, command, disk_node, file_node
from appliance.hypervisor.qemu.monitor import Monitor
from appliance.hypervisor.qemu.pool import POOLED, Pool, lower_priority, new_id
from appliance.hypervisor.qemu.template import Template
from appliance.hypervisor.qemu.templates import TEMPLATE, Rehearsal, Templates, fits_slots, kind_of
from tether.transport import Line

PROGRAM = "qemu-system-x86_64"
# Each machine's QEMU runs under a user id of this range that nobody else has: one that is broken into cannot reach another.
_FIRST_UID = 0x70000000
_PROBE_SECONDS = 12.0
_RESTORE_SECONDS = 30.0
_GLANCE_SECONDS = 0.02
_REHEARSAL_SECONDS = 60.0

log = logging.getLogger(__name__)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time(pid: int) -> str:
    """Field 22 of /proc/PID/stat: with the pid it names one process of this boot."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@contextlib.contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Another name for a folder: a unix socket's path has 107 bytes, and data roots are as deep as users like."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


class QemuMachine(Machine):
    def __init__(self, driver: "QemuDriver", spec: MachineSpec, folder: Path) -> None:
        self.id = spec.id
        self.spec = spec
        self.folder = folder
        self._driver = driver
        self._pidfd = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._early: Line | None = None
        self._released = False
        self._off = trio.Event()
        self._off.set()

    # -- the process ----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Restore it from its class's template, boot it where there is none."""
        pool = self._driver.pool_for(self.spec)
        if pool is not None:
            pool.begin_start()
        try:
            await self._start(pool)
        finally:
            if pool is not None:
                pool.end_start()

    async def _start(self, pool: "Pool[QemuMachine] | None") -> None:
        waiting = pool.take() if pool is not None else None
        if waiting is not None:
            try:
                await self._become(waiting)
                return
            except (HypervisorError, OSError) as error:
                log.warning("machine %s could not be one of the pool: %s", self.id[:12], error)
                await self.kill()
                await waiting.destroy()
                self.folder.mkdir(mode=0o711, exist_ok=True)
        template = self._driver.template_for(self.spec)
        if template is not None:
            try:
                await self.restore(template)
                return
            except HypervisorError as error:
                log.warning("machine %s cannot be restored, so it boots: %s", self.id[:12], error)
                await self.kill()
                self._driver.distrust(template)
        self.launch()

    async def _become(self, waiting: "QemuMachine") -> None:
        """Take over a machine of the pool: its process, its folder, its line; then its empty disks become this one's."""
        process, pid = waiting._process, waiting.release()
        self._process = process
        self._pidfd = os.pidfd_open(pid)
        self._off = trio.Event()
        self._early, waiting._early = waiting._early, None
        shutil.rmtree(self.folder)
        # Named before it is moved: an appliance that comes after a kill finds one or the other, whole.
        self.folder, waiting.folder = waiting.folder, self.folder
        self._save(pid)
        self.folder.rename(waiting.folder)
        self.folder = waiting.folder
        self._driver.forget(waiting)
        self._driver.watch(self)
        mark("taken from the pool")
        async with self.open_monitor() as monitor:
            mark("monitor answers")
            for number, disk in enumerate(self.spec.disks):
                await self._put_in(monitor, number, disk)
        mark("disks put in")

    async def _put_in(self, monitor: Monitor, number: int, disk: Disk) -> None:
        _lengthen(disk.path)
        fd = os.open(disk.path, (os.O_RDONLY if disk.read_only else os.O_RDWR) | os.O_CLOEXEC)
        try:
            await monitor.execute("add-fd", {"fdset-id": number + 1}, fd=fd)
        finally:
            os.close(fd)
        backing = backing_node(number, file_node(number), disk.read_only, 1)
        await monitor.execute("blockdev-add", backing)
        node = disk_node(number, str(backing["node-name"]), disk.read_only, True)
        await monitor.execute("blockdev-reopen", {"options": [node]})

    def release(self) -> int:
        """Stop watching the process; it is somebody else's from now on. HypervisorError when it has ended."""
        if self._pidfd < 0 or self._process is None:
            raise HypervisorError(f"machine {self.id} has ended")
        self._released = True
        trio.lowlevel.notify_closing(self._pidfd)
        os.close(self._pidfd)
        self._pidfd = -1
        return self._process.pid

    async def restore(self, template: Template) -> None:
        state = template.open_state()
        try:
            self.launch(template.memory)
            mark("QEMU launched")
            # Before the guest goes on, so that to it the line never was closed.
            self._early = await self._dial()
            with trio.move_on_after(_RESTORE_SECONDS):
                async with self.open_monitor() as monitor:
                    mark("monitor answers")
                    await monitor.ignore_shared_memory()
                    await monitor.execute("getfd", {"fdname": "state"}, fd=state)
                    await monitor.execute("migrate-incoming", {"uri": "fd:state"})
                    await monitor.wait_event("RESUME")
                    mark("state restored")
                    return
        finally:
            os.close(state)
        raise HypervisorError(f"QEMU has not restored it in {_RESTORE_SECONDS} s")

    @contextlib.asynccontextmanager
    async def open_monitor(self) -> AsyncIterator[Monitor]:
        with _short(self.folder) as folder:
            async with Monitor.open(f"{folder}/qmp.sock") as monitor:
                yield monitor

    def launch(self, memory: int = -1, *, is_template: bool = False) -> None:
        """Start QEMU; see `Descriptors` for what it may be given."""
        driver = self._driver
        with contextlib.ExitStack() as stack:

            def opened(path: Path, flags: int) -> int:
                fd = os.open(path, flags | os.O_CLOEXEC, 0o640)
                stack.callback(os.close, fd)
                return fd

            sockets = []
            for name in ("qmp", "tether"):
                (self.folder / f"{name}.sock").unlink(missing_ok=True)
                listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
                with _short(self.folder) as folder:
                    listener.bind(f"{folder}/{name}.sock")
                listener.listen(1)
                sockets.append(listener.fileno())
            disks = []
            for disk in self.spec.disks:
                if memory >= 0:
                    _lengthen(disk.path)
                disks.append(opened(disk.path, os.O_RDONLY if disk.read_only else os.O_RDWR))
            # Opened here: QEMU may not create files where it runs.
            console = opened(self.folder / "console.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            messages = opened(self.folder / "qemu.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            # QEMU's user may not walk to the guest's files; a descriptor that it inherits it may open again.
            guest = [opened(path, os.O_RDONLY) for path in (driver.kernel, driver.initrd)]
            identity = self._identity()
            if identity:
                os.fchown(console, identity["user"], identity["group"])
            kernel, initrd, out = (Path(f"/proc/self/fd/{fd}") for fd in (*guest, console))
            descriptors = Descriptors(sockets[0], sockets[1], tuple(disks), memory, is_template)
            argv = command(PROGRAM, driver.accel, kernel, initrd, self.spec, descriptors, out)
            passed = [fd for fd in (*sockets, *disks, *guest, console, memory) if fd >= 0]
            try:
                self._process = subprocess.Popen(
                    argv, stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, start_new_session=True,
                    pass_fds=passed, cwd="/",
                    user=identity.get("user"), group=identity.get("group"), extra_groups=self._groups() if identity else None,
                )  # fmt: skip
            except OSError as error:
                raise HypervisorError(f"{shlex.join(argv)}: {error}") from error
        pid = self._process.pid
        self._pidfd = os.pidfd_open(pid)
        self._off = trio.Event()
        self._save(pid)
        (self.folder / "command").write_text(shlex.join(argv) + "\n")
        driver.watch(self)

    def _identity(self) -> dict[str, int]:
        """QEMU's own user and group; {} when this process may not change users."""
        if os.geteuid():
            return {}
        uid = _FIRST_UID + int(hashlib.sha256(self.id.encode()).hexdigest()[:6], 16)
        return {"user": uid, "group": uid}

    def _groups(self) -> list[int]:
        return [os.stat("/dev/kvm").st_gid] if self._driver.accel == "kvm" else []

    def _save(self, pid: int) -> None:
        spec = asdict(self.spec)
        for disk in spec["disks"]:
            disk["path"] = str(disk["path"])
        state = {"spec": spec, "pid": pid, "start_time": _start_time(pid) if pid else "", "boot_id": _boot_id()}
        partial = self.folder / "machine.json.new"
        partial.write_text(json.dumps(state))
        partial.replace(self.folder / "machine.json")

    async def supervise(self) -> None:
        """Notice the end of the process, whoever caused it."""
        try:
            with contextlib.suppress(trio.ClosedResourceError):
                await trio.lowlevel.wait_readable(self._pidfd)
        finally:
            if not self._released:
                self._hang_up()
        if not self._released:
            self._finish()

    def _finish(self) -> None:
        """The process has ended."""
        if self._pidfd >= 0:
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
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
            if self._pidfd >= 0 and _readable(self._pidfd):
                self._finish()

    async def wait_off(self) -> None:
        await self._off.wait()

    async def destroy(self) -> None:
        await self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._driver.forget(self)

    async def power(self) -> Power:
        return Power.OFF if self._off.is_set() else Power.ON

    async def dial_ahead(self) -> None:
        """Open the line for whoever dials next: a guest that is alone looks for company only now and then."""
        self._early = await self._dial()

    def lower_priority(self, lowered: bool) -> None:
        if self._process is not None:
            lower_priority(self._process.pid, lowered)

    async def dial_tether(self) -> Line:
        line, self._early = self._early, None
        return line or await self._dial()

    async def _dial(self) -> Line:
        connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(self.folder) as folder:
                await connection.connect(f"{folder}/tether.sock")
        except OSError as error:
            connection.close()
            raise HypervisorError(f"machine {self.id[:12]} cannot be reached: {error}\n{self.last_words()}") from error
        return Line(connection.detach())

    def last_words(self) -> str:
        words = []
        for name in ("command", "qemu.log", "console.log"):
            with contextlib.suppress(OSError):
                text = (self.folder / name).read_bytes()[-2000:].decode("utf-8", "replace").strip()
                if text:
                    words.append(f"{name}: {text}")
        return "\n".join(words)

    def take_over(self, pid: int) -> None:
        """Adopt the running process of an earlier appliance."""
        self._pidfd = os.pidfd_open(pid)
        self._off = trio.Event()
        self._driver.watch(self)


class QemuDriver(Driver):
    """`root` keeps the machines' folders; `nursery` owns the watching of their processes."""

    def __init__(
        self, root: Path, guest: Path, accel: str, cache: Path, nursery: trio.Nursery, rehearse: Rehearsal | None = None,
        pool: int = 0,
    ) -> None:  # fmt: skip
        self.kernel = guest / "vmlinux"
        self.initrd = guest / "initrd"
        self.accel = accel
        self._root = root
        self._cache = cache
        self._nursery = nursery
        self._machines: dict[str, QemuMachine] = {}
        self.version = "unknown"
        self.guest_digest = ""
        # Without a rehearsal there are no templates: every machine boots.
        self._templates = Templates(self, cache / "templates", rehearse) if rehearse is not None else None
        self._rehearse = rehearse
        self._pool = Pool[QemuMachine](pool, self._make_pooled, QemuMachine.destroy) if rehearse and pool else None
        self._pooled_kind: MachineSpec | None = None

    async def connect(self) -> None:
        if shutil.which(PROGRAM) is None:
            raise HypervisorError(f"{PROGRAM} is not installed (Debian: apt-get install qemu-system-x86)")
        for file in (self.kernel, self.initrd):
            if not file.exists():
                raise HypervisorError(f"{file} is missing: build the guest with `make setup`")
        # The guest may be rebuilt under a running appliance: its machines keep the one they were told.
        self.kernel, self.initrd = self.kernel.resolve(), self.initrd.resolve()
        self._root.mkdir(parents=True, exist_ok=True, mode=0o711)
        result = await trio.run_process([PROGRAM, "--version"], capture_stdout=True)
        self.version = result.stdout.decode().split("version ", 1)[-1].split()[0]
        if self.accel == "auto":
            self.accel = await self._choose_acceleration()
        if self._templates is not None:
            self.guest_digest = await trio.to_thread.run_sync(_digest, (self.kernel, self.initrd))
            self._nursery.start_soon(self._templates.run)
        if self._pool is not None:
            self._nursery.start_soon(self._pool.run)

    def template_for(self, spec: MachineSpec) -> Template | None:
        """What a machine of this kind can be restored from now. When there is nothing yet, it is made meanwhile."""
        return self._templates.get(spec) if self._templates is not None else None

    def distrust(self, template: Template) -> None:
        """A machine could not be restored from it."""
        if self._templates is not None:
            self._templates.drop(template)

    def want(self, spec: MachineSpec) -> None:
        """Machines of this kind will be started, more of them than of others: have a template, and a few of them waiting."""
        self._pooled_kind = kind_of(spec)
        self.template_for(spec)

    def pool_for(self, spec: MachineSpec) -> "Pool[QemuMachine] | None":
        return self._pool if kind_of(spec) == self._pooled_kind and fits_slots(spec) else None

    @property
    def waiting(self) -> int:
        """How many machines wait in the pool."""
        return self._pool.waiting if self._pool is not None else 0

    async def _make_pooled(self) -> QemuMachine | None:
        kind = self._pooled_kind
        template = self.template_for(kind) if kind is not None else None
        if kind is None or template is None or self._rehearse is None:
            return None
        machine = self.make(replace(kind, id=new_id()))
        try:
            await machine.restore(template)
            machine.lower_priority(True)
            with trio.fail_after(_REHEARSAL_SECONDS):
                async with self._rehearse(await machine.dial_tether()):
                    pass
            await machine.dial_ahead()
            machine.lower_priority(False)
        except BaseException:
            with trio.CancelScope(shield=True):
                await machine.destroy()
            raise
        return machine

    async def _choose_acceleration(self) -> str:
        """KVM only if a machine really boots with it: /dev/kvm can be there and hang. The answer is kept for this host boot."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return "tcg"
        facts = (str(self.kernel), str(self.kernel.stat().st_mtime_ns), self.version, _boot_id())
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
                    # The tether's first HELLO: kernel, Python and channel all work.
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

    async def create(self, spec: MachineSpec) -> Machine:
        return self.make(spec)

    def make(self, spec: MachineSpec) -> QemuMachine:
        folder = self._root / spec.id
        folder.mkdir(mode=0o711, exist_ok=True)
        machine = QemuMachine(self, spec, folder)
        machine._save(0)
        self._machines[spec.id] = machine
        return machine

    async def adopt(self) -> list[Machine]:
        found: list[Machine] = []
        running = _running_titles()
        for folder in sorted(self._root.iterdir()):
            if folder.name in self._machines:
                continue  # made by this very driver
            try:
                state = json.loads((folder / "machine.json").read_bytes())
                raw = state["spec"]
                disks = tuple(Disk(Path(disk["path"]), disk["read_only"]) for disk in raw["disks"])
                card = Card(**raw["card"]) if raw["card"] else None
                spec = MachineSpec(raw["id"], raw["memory_mib"], raw["cpus"], disks, card)
            except (OSError, ValueError, KeyError, TypeError):
                # Half made by an appliance that was killed: there is no process yet, or it is not known and holds nothing.
                shutil.rmtree(folder, ignore_errors=True)
                continue
            machine = QemuMachine(self, spec, folder)
            pid = state["pid"]
            if pid and state["boot_id"] == _boot_id():
                with contextlib.suppress(OSError):
                    if _start_time(pid) == state["start_time"] and _is_running(pid):
                        machine.take_over(pid)
            if await machine.power() is Power.OFF:
                # Started, but not written down before the appliance was killed: nobody has ever spoken to it.
                for orphan in running.get(_title(spec.id), ()):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(orphan, signal.SIGKILL)
            if spec.id.startswith((TEMPLATE, POOLED)):
                await machine.destroy()
                continue
            self._machines[spec.id] = machine
            found.append(machine)
        return found

    def watch(self, machine: QemuMachine) -> None:
        self._nursery.start_soon(machine.supervise)

    def forget(self, machine: QemuMachine) -> None:
        self._machines.pop(machine.id, None)

    def describe(self) -> dict[str, str]:
        return {"Driver": "qemu", "Version": self.version, "Accelerator": self.accel, "Guest": self.kernel.parent.name,
                "Waiting": str(self.waiting)}  # fmt: skip


def _readable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _digest(paths: tuple[Path, ...]) -> str:
    found = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


def _lengthen(path: Path) -> None:
    """Behind a slot there is a file of its size. What is added is a hole."""
    if path.stat().st_size < SLOT_BYTES:
        os.truncate(path, SLOT_BYTES)


def _title(machine_id: str) -> str:
    return f"vch-{machine_id[:12]}"


def _running_titles() -> dict[str, list[int]]:
    """Which processes of this host call themselves by a machine's name: {title: pids}."""
    titles: dict[str, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if words[0].endswith(PROGRAM.encode()) and b"-name" in words:
                    title = words[words.index(b"-name") + 1].decode("utf-8", "replace")
                    titles.setdefault(title, []).append(int(entry.name))
    return titles


def _is_running(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "Z"
