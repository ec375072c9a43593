"""The builder machine: starts BuildKit for the first build, ends it when no build has come for a while, finds it after a restart."""

import logging
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.config import PORT, SOCKET
from appliance.buildkit.dial import Dial
from appliance.buildkit.door_names import DOOR_HOST
from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.usage import CacheRecord
from appliance.buildkit.worker import INFO, TESTED_VERSION, version_untrusted
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.builds.builder_container import BuilderContainer
from appliance.engine.builds.builder_files import RegistryRules, builder_archive
from appliance.engine.builds.contracts import BuilderLease, DoorListener, DoorPlace
from appliance.engine.builds.credentials import BuilderKeys
from appliance.engine.builds.dialers import TlsDial, TunnelDial
from appliance.engine.builds.machine_record import MachineRecord, load_machine_record, save_machine_record
from appliance.engine.builds.machine_state import (
    Absent,
    Answers,
    End,
    Ending,
    Event,
    Gone,
    Idle,
    Join,
    Leave,
    Ready,
    State,
    advance,
)
from appliance.engine.builds.usage_record import UsageRecord, ask_usage
from appliance.engine.builds.worker_record import WorkerRecord
from appliance.engine.model.container import Container
from appliance.engine.model.run import Run
from appliance.errors import ProtocolError, Unavailable, VchError, leaves, unforeseen
from appliance.guest import GuestTunnel
from appliance.store import Database
from tether.rpc.bridge import LoopThread

log = logging.getLogger(__name__)

_FOUND_SECONDS = 30.0
_CALL_SECONDS = 10.0
_PAUSE = 0.1
# So many starts in a row without an answer, and the cache is taken for the cause.
_MOST_FAILURES = 3


@dataclass(frozen=True, slots=True)
class MachineSettings:
    """`folder` takes vchd's keys. `idle`: seconds. `parallelism`: RUNs at the same time. `socket` and `port` are those of buildkitd.

    `answer_seconds`: from the delivery of the files to the first answer; buildkitd of an emulated CPU takes some seconds.
    """

    folder: Path
    idle: float
    parallelism: int
    registries: RegistryRules
    socket: str = SOCKET
    port: int = PORT
    answer_seconds: float = 120.0


@dataclass(slots=True, eq=False)
class _Life:
    """One life of the builder. `found`: an earlier vchd began it. `settled`: `lease` or `error` is known. `over`: nothing is left of it."""

    found: bool = False
    lease: BuilderLease | None = None
    error: VchError | None = None
    settled: trio.Event = field(default_factory=trio.Event)
    over: trio.Event = field(default_factory=trio.Event)


class BuilderMachine:
    """See contracts.Builders. `loop` is the build loop, `nursery` owns the machine's life.

    `workers` and `usage` are what the last builder said; they need no builder that runs.
    """

    def __init__(
        self,
        settings: MachineSettings,
        container: BuilderContainer,
        door: DoorListener,
        database: Database,
        loop: LoopThread,
        nursery: trio.Nursery,
    ) -> None:
        self._settings = settings
        self._container = container
        self._door = door
        self._database = database
        self._loop = loop
        self._tasks = IsolatedTasks(nursery)
        self._state: State = Absent()
        self._changed = trio.Event()
        self._life: _Life | None = None
        self._record = MachineRecord()
        self.workers = WorkerRecord(database, container.gateway)
        self.usage = UsageRecord(database)

    @property
    def running(self) -> bool:
        """Whether `use` would return without a start."""
        return isinstance(self._state, Ready | Idle)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[BuilderLease]:
        """See contracts.Builders."""
        while True:
            life = await self._join()
            try:
                # The start goes on without this build: the next one finds the builder.
                await life.settled.wait()
                if life.lease is not None:
                    yield life.lease
                    return
            finally:
                if self._life is life:
                    self._advance(Leave(self._idle_until()))
            if not life.found:
                raise Unavailable(f"the builder cannot be started: {life.error}") from life.error
            # The builder that an earlier vchd has left on is of no use: a new one is.
            await life.over.wait()

    async def _join(self) -> _Life:
        while isinstance(self._state, Ending) and self._life is not None:
            await self._life.over.wait()
        if self._life is None:
            self._life = _Life()
            self._tasks.start_soon(self._live, self._life, None)
        self._advance(Join())
        return self._life

    async def restore(self) -> None:
        """Find the builder that an earlier vchd has left on, once the containers are known. It is used, or ended, in the background."""
        self._record = load_machine_record(self._database)
        container = self._container.find()
        if container is not None and container.running:
            self._life = _Life(found=True)
            # Until it answers, a build waits as for a start.
            self._advance(Join())
            self._advance(Leave(self._idle_until()))
            self._tasks.start_soon(self._live, self._life, container)

    def facts(self) -> dict[str, str]:
        """For `docker info`."""
        return {"Builder": "running" if self.running else "stopped"}

    @property
    def has_cache(self) -> bool:
        """Whether a builder ever had a cache that still exists."""
        return bool(self._record.volume) and self._container.has_volume(self._record.volume)

    async def cache_records(self) -> list[CacheRecord]:
        """What lies in the cache: of a builder that is off, what lay there when it ended. Starts no builder."""
        life = self._life
        if life is not None and life.lease is not None:
            try:
                return await ask_usage(life.lease.channel)
            except (BuildkitError, ProtocolError) as error:
                log.warning("the builder does not tell what its cache holds: %s", error)
        return self.usage.records if self.has_cache else []

    async def stop(self) -> None:
        """End the builder now, with the builds under way; the next build starts another one."""
        if self._life is not None:
            life = self._life
            await self._container.stop()
            await life.over.wait()

    # -- one life -------------------------------------------------------------------------------------------------

    async def _live(self, life: _Life, found: Container | None) -> None:
        """Start the builder, or take over one that was found, and end it when it is idle. The end of the daemon leaves it on."""
        try:
            await self._serve(life, found)
        except Exception as group:
            error = leaves(group)[0]
            if not isinstance(error, VchError):
                log.exception("the builder failed")
            life.error = error if isinstance(error, VchError) else unforeseen(error)
            log.warning("the builder: %s", life.error)
        self._advance(End())
        life.lease = None
        life.settled.set()
        try:
            await self._container.stop()
        except VchError as error:
            log.warning("the builder does not stop: %s", error)
        finally:
            BuilderKeys.at(self._settings.folder).remove()
            self._advance(Gone())
            self._life = None
            life.over.set()

    async def _serve(self, life: _Life, found: Container | None) -> None:
        async with AsyncExitStack() as stack:
            archive = b""
            if found is None:
                container, archive = await self._start(stack)
            else:
                container = await self._take_over(stack, found)
            run = await container.require_run()
            channel = await stack.enter_async_context(BuildkitChannel.open(self._loop, self._dial(container, run)))
            try:
                if archive:
                    await self._container.deliver(container, archive)
                seconds = self._settings.answer_seconds if archive else _FOUND_SECONDS
                info = await self._first_answer(channel, container, run, seconds)
                await self.workers.update(channel, info)
            except VchError:
                self._record.failures += 1
                await save_machine_record(self._database, self._record)
                raise
            if (version := version_untrusted(info)) not in ("", TESTED_VERSION):
                log.warning("BuildKit %s is not the tested version %s", version, TESTED_VERSION)
            if self._record.failures or self._record.set_aside:
                self._record.failures, self._record.set_aside = 0, False
                await save_machine_record(self._database, self._record)
            life.lease = BuilderLease(channel, f"{DOOR_HOST}:{self._record.port}")
            self._advance(Answers(self._idle_until()))
            life.settled.set()
            await self._until_idle(container, run)
            await self._save_usage(channel, container)

    async def _start(self, stack: AsyncExitStack) -> tuple[Container, bytes]:
        """A container that has started and waits for its files, and the tar of these files. The door listens."""
        try:
            keys, own = await trio.to_thread.run_sync(BuilderKeys.make, self._settings.folder)
        except OSError as error:
            raise Unavailable(f"the keys of the builder cannot be written: {error}") from error
        record = self._record
        if record.failures >= _MOST_FAILURES and not record.set_aside:
            old, record.volume = record.volume, self._container.volume_name(record.volume)
            record.failures, record.set_aside = 0, True
            log.warning(
                "BuildKit did not start %d times with the cache in volume %s. A new cache is used; to free the disk of the old one, "
                "remove this volume",
                _MOST_FAILURES,
                old,
            )
        record.volume = record.volume or self._container.volume_name()
        record.port = await stack.enter_async_context(self._listen(keys, 0))
        record.control = self._settings.port if self._container.reachable else 0
        archive = await trio.to_thread.run_sync(
            builder_archive,
            f"{DOOR_HOST}:{record.port}",
            own,
            self._settings.registries,
            self._settings.parallelism,
            record.control,
        )
        container = await self._container.make(record.volume)
        record.container = container.id
        await save_machine_record(self._database, record)
        await self._container.start(container)
        return container, archive

    async def _take_over(self, stack: AsyncExitStack, container: Container) -> Container:
        """The container that was found, once its guest has answered. The door listens where buildkitd looks for it."""
        keys = BuilderKeys.at(self._settings.folder)
        if self._record.container != container.id or not keys.exist:
            raise Unavailable("the builder that was found has no door: it is ended")
        await stack.enter_async_context(self._listen(keys, self._record.port))
        return container

    def _dial(self, container: Container, run: Run) -> Dial:
        """The way to buildkitd: its TCP port, or, where this host does not reach it, its unix socket through the tether."""
        address = self._container.address(container) if self._record.control else ""
        if address:
            return TlsDial(address, self._record.control, BuilderKeys.at(self._settings.folder))
        return TunnelDial(GuestTunnel(run.session), container.id, self._settings.socket)

    @asynccontextmanager
    async def _listen(self, keys: BuilderKeys, port: int) -> AsyncIterator[int]:
        address, device = await self._container.door_place()
        place = DoorPlace(address, device, port, keys.certificate, keys.key, keys.authority)
        async with self._door.listen(place) as found:
            yield found

    async def _first_answer(self, channel: BuildkitChannel, container: Container, run: Run, seconds: float) -> bytes:
        """The answer of Control/Info. Unavailable when there is none in time, or the container ends."""
        problem = "no answer"
        with trio.move_on_after(seconds):
            while container.running and container.run is run:
                try:
                    return await channel.call(INFO, b"", _CALL_SECONDS)
                except BuildkitError as error:
                    problem = error.text
                await trio.sleep(_PAUSE)
        name = container.record.name
        if not container.running:
            code = container.record.exit_code
            raise Unavailable(f"BuildKit has ended with exit code {code}; docker logs {name} shows why")
        raise Unavailable(
            f"BuildKit does not answer within {seconds:.0f} s ({problem}); docker logs {name} may show why"
        )

    async def _until_idle(self, container: Container, run: Run) -> None:
        """Return when the builder has had no lease for long enough, or has ended; the state is Ending then."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await container.wait_end_of(run)
                log.info("the builder has ended")
                self._advance(End())
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            while True:
                until = self._state.until if isinstance(self._state, Idle) else math.inf
                if trio.current_time() >= until:
                    # Before anything else waits: no build gets a builder that ends.
                    self._advance(End())
                    break
                with trio.move_on_at(until):
                    await self._changed.wait()
            nursery.cancel_scope.cancel()

    async def _save_usage(self, channel: BuildkitChannel, container: Container) -> None:
        if not container.running:
            return
        try:
            await self.usage.save(await ask_usage(channel))
        except (BuildkitError, ProtocolError) as error:
            log.warning("the builder does not tell what its cache holds: %s", error)

    # -- states ---------------------------------------------------------------------------------------------------

    def _idle_until(self) -> float:
        return trio.current_time() + self._settings.idle

    def _advance(self, event: Event) -> None:
        self._state = advance(self._state, event)
        changed, self._changed = self._changed, trio.Event()
        changed.set()
