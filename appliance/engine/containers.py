"""The containers: create, find, start, stop, wait, remove; and finding them again after this process was killed."""

import logging
import math
import re
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance.container import lifecycle
from appliance.container.event import Event
from appliance.container.lifecycle import Created, Exit, Exited, Remove, Running, Start, Started, StartFailed
from appliance.container.record import NAME, Record, state_of
from appliance.container.signals import parse_signal
from appliance.container.spec import arguments, capabilities
from appliance.diag import Trace, mark
from appliance.engine.boot import begin_found, begin_fresh, machine_spec, start_error
from appliance.engine.disks import UpperDisks
from appliance.engine.events import EventBus
from appliance.engine.names import random_name
from appliance.engine.record import Container
from appliance.engine.run import Ended, Run
from appliance.errors import Conflict, InvalidParameter, NotFound, NotModified, VchError
from appliance.guest import StartRefused
from appliance.hypervisor import Driver, Machine, Power
from appliance.image.store import ImageStore
from appliance.network import DefaultNetwork
from appliance.store import Database
from tether.rpc.bridge import LoopThread

log = logging.getLogger(__name__)

_STOP_SECONDS = 10.0
_RESTART_FIRST, _RESTART_LAST = 0.1, 60.0


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a machine gets when its container does not say."""

    memory_mib: int
    cpus: int
    dns: tuple[str, ...]


class Containers:
    """`nursery` owns the runs. All methods raise errors of `errors.py` with Docker's texts."""

    def __init__(
        self, root: Path, database: Database, driver: Driver, images: ImageStore, network: DefaultNetwork,
        events: EventBus, loop: LoopThread, nursery: trio.Nursery, defaults: Defaults,
    ) -> None:  # fmt: skip
        self._root = root / "containers"
        self._root.mkdir(parents=True, exist_ok=True)
        self._database = database
        self._driver = driver
        self._images = images
        self.network = network
        self._events = events
        self._loop = loop
        self._nursery = nursery
        self.defaults = defaults
        self._disks = UpperDisks(root)
        self._containers: dict[str, Container] = {}
        self._names: dict[str, str] = {}

    # -- finding --------------------------------------------------------------------------------------------------

    def all(self) -> list[Container]:
        return list(self._containers.values())

    def get(self, ref: str) -> Container:
        """By full id, exact name, unique id prefix."""
        found = self._containers.get(ref) or self._containers.get(self._names.get(ref.removeprefix("/"), ""))
        if found is not None:
            return found
        if re.fullmatch(r"[a-f0-9]{1,64}", ref):
            matches = [container for key, container in self._containers.items() if key.startswith(ref)]
            if len(matches) > 1:
                raise InvalidParameter(f"Multiple IDs found with provided prefix: {ref}")
            if matches:
                return matches[0]
        raise NotFound(f"No such container: {ref}")

    def user_of_image(self, image_id: str) -> str | None:
        """The short id of a container of the image, if there is one."""
        return next((c.id[:12] for c in self._containers.values() if c.record.image_id == image_id), None)

    def _emit(self, container: Container, action: str, **attributes: str) -> None:
        labels = {key: str(value) for key, value in (container.record.config.get("Labels") or {}).items()}
        shown = {**labels, "image": container.record.image, "name": container.record.name, **attributes}
        self._events.publish(Event("container", action, container.id, shown))

    async def _save(self, container: Container) -> None:
        await self._database.put("container", container.id, msgspec.json.encode(container.record))

    # -- create, rename, remove -----------------------------------------------------------------------------------

    def _take_name(self, name: str, container_id: str) -> str:
        name = name.removeprefix("/")
        if not NAME.fullmatch(name):
            raise InvalidParameter(f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")
        if name in self._names:
            raise Conflict(
                f'Conflict. The container name "/{name}" is already in use by container "{self._names[name]}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[name] = container_id
        return name

    async def create(self, name: str, config: dict[str, Any], host: dict[str, Any]) -> Container:
        """Make a container of a complete configuration; `config["Image"]` names an image that is here."""
        image = self._images.get(config["Image"])
        merged = merge_config(config, self._images.config(image.id).config)
        arguments(merged)
        capabilities(host)
        container_id = secrets.token_hex(32)
        if name:
            name = self._take_name(name, container_id)
        else:
            for attempt in range(100):
                name = random_name(attempt)
                if name not in self._names:
                    break
            self._names[name] = container_id
        if not merged.get("Hostname"):
            merged["Hostname"] = container_id[:12]
        folder = self._root / container_id
        try:
            folder.mkdir(mode=0o711)
            record = Record(container_id, f"{name}", time.time_ns(), image.id, config["Image"], merged, host)
            container = Container(record, folder, Created())
            self._disks.create(container.upper)
            await self._save(container)
        except BaseException:
            self._names.pop(name, None)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._containers[container_id] = container
        self._emit(container, "create")
        return container

    async def rename(self, ref: str, name: str) -> None:
        container = self.get(ref)
        if not name:
            raise InvalidParameter("Neither old nor new names may be empty")
        if name.removeprefix("/") == container.record.name:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        old = container.record.name
        container.record.name = self._take_name(name, container.id)
        try:
            await self._save(container)
        except BaseException:
            del self._names[container.record.name]
            container.record.name = old
            raise
        del self._names[old]
        self._emit(container, "rename", oldName=f"/{old}")

    async def remove(self, ref: str, *, force: bool) -> None:
        container = self.get(ref)
        lifecycle.advance(container.state, Remove(force, ref))
        if isinstance(container.state, Running):
            await self.kill(ref, "KILL", for_removal=True)
        async with container.lock:
            await self._wait_machine_gone(container)
            if container.removed:
                return
            container.move(Remove(True, ref))
            await self._database.remove("container", container.id)
            container.removed = True
            del self._containers[container.id]
            del self._names[container.record.name]
            if container.log is not None:
                container.log.close()
            shutil.rmtree(container.folder, ignore_errors=True)
            container.fanout.end_run()
            container.tell()
            container.tell_log()
        self._emit(container, "destroy")

    @staticmethod
    async def _wait_machine_gone(container: Container) -> None:
        if container.run is not None:
            await container.run.gone.wait()
            container.run = None

    # -- start ----------------------------------------------------------------------------------------------------

    def attached(self, ref: str) -> None:
        """A client is about to attach."""
        self._emit(self.get(ref), "attach")

    async def start(self, ref: str, *, by_user: bool = False) -> None:
        """Start it; returns when its process runs. InvalidParameter with Docker's text when its program cannot be started."""
        container = self.get(ref)
        if by_user:
            container.record.stopped_by_user = False
            container.record.restarts = 0
        async with container.lock:
            before = container.state
            # Checked first, so that a second start is answered at once.
            lifecycle.advance(before, Start())
            await self._wait_machine_gone(container)
            before = container.state
            container.move(Start())
            outcome: list[VchError | None] = []
            ready = trio.Event()
            self._nursery.start_soon(self._run_guarded, container, before, outcome, ready)
            # The start goes on if the client leaves: half a start helps nobody.
            with trio.CancelScope(shield=True):
                await ready.wait()
        if outcome and outcome[0] is not None:
            raise outcome[0]

    async def _run_guarded(
        self, container: Container, before: lifecycle.State, outcome: list[VchError | None], ready: trio.Event
    ) -> None:
        """A run, whose failure is the container's and nobody else's."""
        try:
            await self._run(container, before, outcome, ready)
        except VchError as error:
            await self._failed(container, before, error, outcome)
        except Exception as error:
            log.exception("the run of container %s failed", container.id[:12])
            await self._failed(container, before, VchError(f"internal error: {error!r}"), outcome)
        finally:
            ready.set()

    async def _failed(
        self, container: Container, before: lifecycle.State, error: VchError, outcome: list[VchError | None]
    ) -> None:
        endpoint, container.record.address = container.record.address, ""
        if endpoint:
            self.network.release(endpoint)
        if container.run is not None:
            container.run.gone.set()
        if isinstance(container.state, Running):
            await self._ended(container, Ended(None, str(error)))
            return
        text, code = start_error(error) if isinstance(error, StartRefused) else (str(error), 128)
        container.move(StartFailed(text, code, before))
        container.fanout.end_run()
        container.stdin.renew()
        await self._save(container)
        outcome.append(InvalidParameter(text) if isinstance(error, StartRefused) else VchError(text))
        self._emit(container, "die", exitCode=str(code))
        if container.record.host.get("AutoRemove"):
            self._nursery.start_soon(self._remove_quietly, container)

    async def _run(
        self, container: Container, before: lifecycle.State, outcome: list[VchError | None], ready: trio.Event
    ) -> None:
        record = container.record
        container.trace = Trace()
        container.trace.follow()
        endpoint = None
        if record.host.get("NetworkMode") != "none" and not record.config.get("NetworkDisabled"):
            endpoint = self.network.take()
            record.address = endpoint.address
        log_file = container.open_log() if _keeps_log(record) else None
        if log_file is not None:
            log_file.begin_run()
            record.run_first_entry = log_file.entries
        await self._save(container)
        mark("state saved")
        layers = self._images.layer_paths(record.image_id)
        machine = await self._driver.create(
            machine_spec(container, layers, endpoint, self.defaults.memory_mib, self.defaults.cpus)
        )
        try:
            await machine.start()
            mark("machine on")
            run = await self._dial(container, machine)
            mark("line dialled")
        except BaseException:
            with trio.CancelScope(shield=True):
                await machine.destroy()
            raise
        container.run = run

        async def begin(run: Run) -> int:
            started = await begin_fresh(run.session, container, len(layers), endpoint, self.defaults.dns)
            container.move(Started(started.started_ns, started.pid))
            await self._save(container)
            self._emit(container, "start")
            mark("state saved")
            outcome.append(None)
            ready.set()
            return 0

        async def on_exit(ended: Ended) -> None:
            await self._ended(container, ended)

        await run.supervise(begin, on_exit)

    async def _dial(self, container: Container, machine: Machine) -> Run:
        return await Run.dial(
            self._loop, container.id, machine, container.fanout,
            container.stdin if container.record.config.get("OpenStdin") else None,
            container.open_log() if _keeps_log(container.record) else None, container.tell_log,
        )  # fmt: skip

    # -- exit -----------------------------------------------------------------------------------------------------

    async def _ended(self, container: Container, ended: Ended) -> None:
        record = container.record
        status = ended.status
        if status is None:
            code, oom, error = 137, False, ended.reason
            log.warning("container %s lost its machine: %s", container.id[:12], ended.reason)
        else:
            code, oom, error = (128 + status.signal if status.signal else status.code), status.oom_killed, ""
        if record.address:
            self.network.release(record.address)
            record.address = ""
        started = record.started
        container.exits += 1
        container.move(Exit(time.time_ns(), code, oom, error))
        await self._save(container)
        seconds = max(0, (record.finished - started) // 1_000_000_000)
        if oom:
            self._emit(container, "oom")
        container.stdin.renew()
        container.fanout.end_run()
        container.tell_log()
        self._emit(container, "die", exitCode=str(code), execDuration=str(seconds))
        if record.host.get("AutoRemove"):
            self._nursery.start_soon(self._remove_quietly, container)
        elif self._wants_restart(container, code):
            self._nursery.start_soon(self._restart_later, container)

    async def _remove_quietly(self, container: Container) -> None:
        try:
            await self.remove(container.id, force=True)
        except (NotFound, Conflict):
            pass

    @staticmethod
    def _wants_restart(container: Container, code: int) -> bool:
        policy = container.record.host.get("RestartPolicy") or {}
        if container.record.stopped_by_user:
            return False
        match policy.get("Name"):
            case "always" | "unless-stopped":
                return True
            case "on-failure":
                most = policy.get("MaximumRetryCount") or math.inf
                return code != 0 and container.record.restarts < most
            case _:
                return False

    async def _restart_later(self, container: Container) -> None:
        container.record.restarts += 1
        delay = min(_RESTART_LAST, _RESTART_FIRST * 2 ** min(10, container.record.restarts - 1))
        with trio.move_on_after(delay):
            while (
                not container.removed and isinstance(container.state, Exited) and not container.record.stopped_by_user
            ):
                await container.changed.wait()
        if isinstance(container.state, Exited) and not container.record.stopped_by_user:
            try:
                await self.start(container.id)
            except (VchError, NotModified) as error:
                log.warning("restart of container %s: %s", container.id[:12], error)

    # -- signals --------------------------------------------------------------------------------------------------

    async def kill(self, ref: str, signal: str, *, for_removal: bool = False) -> None:
        container = self.get(ref)
        number = parse_signal(signal or "KILL")
        if not container.running or container.run is None:
            raise Conflict(f"cannot kill container: {ref}: container {container.id} is not running")
        if number in (9, 15) or for_removal:
            container.record.stopped_by_user = True
        try:
            await container.run.session.signal(container.id, number)
        except Conflict:
            if for_removal:
                return
            raise Conflict(f"cannot kill container: {ref}: container {container.id} is not running") from None
        except VchError:
            # A guest that does not answer still dies.
            if number != 9:
                raise
            await container.run.machine.kill()
        self._emit(container, "kill", signal=str(number))

    async def stop(self, ref: str, *, signal: str, timeout: float | None) -> None:
        """SIGTERM or StopSignal, then SIGKILL after `timeout` seconds (negative: never)."""
        container = self.get(ref)
        if not container.running:
            raise NotModified("container is already stopped")
        if timeout is None:
            configured = container.record.config.get("StopTimeout")
            timeout = _STOP_SECONDS if configured is None else float(configured)
        container.record.stopped_by_user = True
        exits = container.exits
        number = parse_signal(signal or container.record.config.get("StopSignal") or "TERM")
        try:
            await self.kill(ref, str(number))
        except Conflict:
            pass
        container.record.stopped_by_user = True
        with trio.move_on_after(timeout if timeout >= 0 else math.inf):
            await self._wait_exit(container, exits)
        if container.exits == exits:
            try:
                await self.kill(ref, "KILL")
            except Conflict:
                pass
            with trio.move_on_after(10):
                await self._wait_exit(container, exits)
            if container.exits == exits and container.run is not None:
                await container.run.machine.kill()
                await self._wait_exit(container, exits)
        self._emit(container, "stop")

    @staticmethod
    async def _wait_exit(container: Container, exits: int) -> None:
        while container.exits == exits and not container.removed:
            await container.changed.wait()

    async def restart(self, ref: str, *, signal: str, timeout: float | None) -> None:
        container = self.get(ref)
        if container.running:
            await self.stop(ref, signal=signal, timeout=timeout)
        container.record.stopped_by_user = False
        await self.start(ref)
        self._emit(container, "restart")

    async def resize(self, ref: str, rows: int, columns: int) -> None:
        container = self.get(ref)
        if not container.running or container.run is None:
            raise Conflict(f"container {container.id} is not running")
        await container.run.session.resize(container.id, rows, columns)
        self._emit(container, "resize", height=str(rows), width=str(columns))

    def wait(self, ref: str, condition: str) -> tuple[Container, Callable[[], bool]]:
        """What to wait for, as a test that `changed` makes worth repeating; from this call on, so subscribe then answer."""
        container = self.get(ref)
        exits = container.exits
        match condition:
            case "" | "not-running":
                return container, lambda: not isinstance(container.state, Running | lifecycle.Starting)
            case "next-exit":
                return container, lambda: container.exits > exits or container.removed
            case "removed":
                return container, lambda: container.removed
            case _:
                raise InvalidParameter(f'invalid condition: "{condition}"')

    # -- after a restart of this process --------------------------------------------------------------------------

    async def restore(self) -> None:
        """Find everything again: records, running machines; finish or remove what was half made."""
        await self._disks.prepare()
        machines = {machine.id: machine for machine in await self._driver.adopt()}
        for key, value in self._database.load("container").items():
            record = msgspec.json.decode(value, type=Record)
            folder = self._root / key
            if not folder.exists():
                # Killed between the removal of the folder's name and the record's: the record goes first, so this is foreign.
                await self._database.remove("container", key)
                continue
            container = Container(record, folder, state_of(record))
            self._containers[key] = container
            self._names[record.name] = key
        for folder in self._root.iterdir():
            if folder.name not in self._containers:
                shutil.rmtree(folder, ignore_errors=True)
        for machine_id, machine in machines.items():
            if machine_id not in self._containers:
                await machine.destroy()
        for container in list(self._containers.values()):
            found = machines.get(container.id)
            if found is not None and await found.power() is Power.ON:
                if container.record.address:
                    self.network.retake(container.record.address)
                self._nursery.start_soon(self._resume_guarded, container, found)
                continue
            if found is not None:
                await found.destroy()
            if container.running:
                await self._ended(container, Ended(None, "the machine ended while the appliance was away"))
            elif container.record.address:
                container.record.address = ""
                await self._save(container)

    async def _resume_guarded(self, container: Container, machine: Machine) -> None:
        try:
            await self._resume(container, machine)
        except Exception as error:
            if not isinstance(error, VchError):
                log.exception("taking container %s up again failed", container.id[:12])
            if container.running:
                await self._ended(container, Ended(None, str(error)))

    async def _resume(self, container: Container, machine: Machine) -> None:
        record = container.record
        log_file = container.open_log() if _keeps_log(record) else None
        if log_file is not None and log_file.entries <= record.run_first_entry:
            log_file.begin_run()
        try:
            run = await self._dial(container, machine)
        except VchError:
            await machine.destroy()
            raise
        container.run = run

        async def begin(run: Run) -> int:
            state = await begin_found(run.session, container)
            if not container.running:
                container.move(Started(state.started_ns, state.pid))
                await self._save(container)
            return log_file.guest_offset if log_file is not None else state.acknowledged_offset

        async def on_exit(ended: Ended) -> None:
            await self._ended(container, ended)

        await run.supervise(begin, on_exit)


def _keeps_log(record: Record) -> bool:
    return (record.host.get("LogConfig") or {}).get("Type") != "none"


def merge_config(config: dict[str, Any], image: dict[str, Any]) -> dict[str, Any]:
    """The user's configuration over the image's, as moby's runconfig.Merge."""
    merged = dict(config)
    for key in ("User", "WorkingDir", "StopSignal", "Healthcheck", "StopTimeout", "Shell"):
        if not merged.get(key) and image.get(key):
            merged[key] = image[key]
    if not merged.get("Entrypoint"):
        if not merged.get("Cmd"):
            merged["Cmd"] = image.get("Cmd")
        if merged.get("Entrypoint") is None:
            merged["Entrypoint"] = image.get("Entrypoint")
    elif merged["Entrypoint"] == [""]:
        merged["Entrypoint"] = None
    names = {entry.partition("=")[0] for entry in merged.get("Env") or ()}
    inherited = [entry for entry in image.get("Env") or () if entry.partition("=")[0] not in names]
    # A name without = takes the variable away (docker run -e NAME with NAME unset at the client).
    merged["Env"] = inherited + list(merged.get("Env") or ())
    merged["Labels"] = {**(image.get("Labels") or {}), **(merged.get("Labels") or {})}
    merged["ExposedPorts"] = {**(image.get("ExposedPorts") or {}), **(merged.get("ExposedPorts") or {})}
    merged["Volumes"] = {**(image.get("Volumes") or {}), **(merged.get("Volumes") or {})} or None
    return merged
