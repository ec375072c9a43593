"""One run of a container in a pod: its process, and its output on the way to the log and the attached clients."""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

import trio

from appliance.diag import mark
from appliance.engine.model.pod import Pod
from appliance.errors import Conflict, HypervisorError, VchError
from appliance.guest import ExitStatus, Fanout, GuestFailure, GuestSession, Output, OutputRecord, StdinPipe
from appliance.hypervisor import Machine
from appliance.streams.logfile import LogFile
from appliance.streams.logfile import Output as LogOutput

# With more unacknowledged output than this, the log is synced at once.
_SYNC_BYTES = 256 << 10
_SYNC_SECONDS = 0.05
_OFF_SECONDS = 10.0
# How long other containers of the machine may use the files of a container that has ended, before a request fails.
_FILES_SECONDS = 30.0
# As much output is logged on the event loop: a thread costs more.
_FEW_BYTES = 4096


@dataclass(slots=True)
class Ended:
    """How a run ended: the guest's exit status, or None with the reason why there is none."""

    status: ExitStatus | None
    reason: str = ""


Begin = Callable[["Run", AsyncExitStack], Awaitable["RunningProcess"]]
"""Brings the guest to a running process. Contexts that last until the process has ended go on the stack."""


@dataclass(slots=True)
class RunningProcess:
    """A process that runs: the output offset to read from, and the output stream if the launch has opened it already."""

    offset: int
    output: AsyncGenerator[Output, None] | None = None


@dataclass(frozen=True, slots=True)
class RunStreams:
    """Where a run's stdin comes from and its output goes: clients, and the log. `on_logged` is called after each log entry."""

    fanout: Fanout
    stdin: StdinPipe | None
    log: LogFile | None
    on_logged: Callable[[], None]


class Run:
    """Follows one container in a pod to its end. The container's ID, and the process ID in the guest, is `process_id`.

    `on_gone` is called when no machine has the container's disks any more, before another machine can have them. With
    `cleans_disks` the guest unmounts the disks at the end, which takes a moment; only disks that are used again need it.
    """

    def __init__(
        self,
        process_id: str,
        pod: Pod,
        streams: RunStreams,
        on_gone: Callable[[], None],
        *,
        cleans_disks: bool,
    ) -> None:
        self.pod = pod
        self._id = process_id
        self._streams = streams
        self._log = streams.log
        self._on_gone = on_gone
        self._cleans_disks = cleans_disks
        self._offset = 0
        self._acknowledged = 0
        self._unsynced = trio.Event()
        self._progress = trio.Event()
        self.gone = trio.Event()

    @property
    def machine(self) -> Machine:
        """The pod's machine."""
        return self.pod.machine

    @property
    def session(self) -> GuestSession:
        """The pod's session."""
        return self.pod.session

    @property
    def network(self) -> str:
        """How calls to the guest name the container's network namespace and files: "" for the first container of the machine."""
        seat = self.pod.seats.get(self._id)
        return seat.network if seat is not None else ""

    @property
    def first_socket(self) -> int:
        """The number in the guest of the container's first socket."""
        seat = self.pod.seats.get(self._id)
        return seat.first_socket if seat is not None else 0

    @property
    def offset(self) -> int:
        """The first byte of the guest's output that has not come yet."""
        return self._offset

    async def wait_offset(self, offset: int) -> None:
        """Return when the output before `offset` is logged."""
        while self._offset < offset:
            await self._progress.wait()

    async def wait_gone(self) -> None:
        """Return when no machine has the container's disks any more.

        Conflict when a process of another container in the same machine goes on using them.
        """
        with trio.move_on_after(_FILES_SECONDS if self.pod.was_shared else math.inf):
            await self.gone.wait()
        if not self.gone.is_set():
            raise Conflict(
                f"the files of container {self._id[:12]} are in use in the machine of container {self.machine.id[:12]}"
            )

    def skip_cleaning(self) -> None:
        """The disks will be removed, so the end of the run need not clean them."""
        self._cleans_disks = False

    async def accompany(self, work: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Run `work` until it returns or the run has left its pod."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, *arguments)
            await self.gone.wait()
            nursery.cancel_scope.cancel()

    async def supervise(self, begin: Begin, on_exit: Callable[[Ended], Awaitable[None]]) -> None:
        """Carry the session from `begin` to the end.

        `on_exit` is called when the process's last byte is in the log and sent to the attached clients, before the container leaves
        the pod. Errors of `begin` are raised. A cancellation means that the daemon ends: only then the container stays in the pod.
        """
        try:
            await self._until_end(begin, on_exit)
        except trio.Cancelled:
            raise
        except BaseException:
            # When the daemon ends, connections break in any order. Such an error says nothing about the machine.
            await trio.lowlevel.checkpoint_if_cancelled()
            await self._leave(clean=False)
            raise
        await self._leave(clean=self._cleans_disks)

    async def _leave(self, *, clean: bool) -> None:
        await self.pod.leave(self._id, clean=clean)
        self._on_gone()
        self.gone.set()

    async def _until_end(self, begin: Begin, on_exit: Callable[[Ended], Awaitable[None]]) -> None:
        problem: list[VchError] = []
        begun = ended = False
        off = self.pod.off
        async with trio.open_nursery() as nursery, AsyncExitStack() as stack:

            async def watch() -> None:
                await off.wait()
                if not ended:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                start = await begin(self, stack)
                self._offset = self._acknowledged = start.offset
                begun = True
                if self._streams.stdin is not None:
                    nursery.start_soon(self._streams.stdin.run, self.session, self._id)
                nursery.start_soon(self._sync_loop)
                status = await self._ingest(start.output)
                ended = True
                await on_exit(Ended(status))
                if self._log is not None:
                    await trio.to_thread.run_sync(self._log.sync)
            except VchError as error:
                if self.session.closed and not ended and not self.session.fault:
                    # The connection broke because the machine ended: wait for its end, which tells the reason.
                    with trio.move_on_after(_OFF_SECONDS):
                        await trio.sleep_forever()
                if not off.is_set():
                    problem.append(VchError(self.session.fault) if self.session.fault else error)
            nursery.cancel_scope.cancel()
        words = "" if ended else self.machine.last_words()
        if problem:
            (failure,) = problem
            if isinstance(failure, GuestFailure) and not begun and words:
                # The guest did not answer: its console may say why, and is removed with the machine.
                raise GuestFailure(f"{failure}\n{words}", failure.code) from failure
            raise failure
        if not ended:
            reason = "the machine ended by itself" + (f"\n{words}" if words else "")
            if not begun:
                raise HypervisorError(reason)
            await on_exit(Ended(None, reason))

    async def _ingest(self, output: AsyncGenerator[Output, None] | None) -> ExitStatus:
        """Read the output to its end; the process's exit status."""
        async with aclosing(self.session.follow(self._id, self._offset, output)) as stream:
            async for batch in stream:
                await self._take(batch.records)
                if batch.exit is not None:
                    mark("process ended")
                    return batch.exit
        raise VchError("the output ended without an exit")

    async def _take(self, records: Sequence[OutputRecord]) -> None:
        """Log records, and send them to the attached clients."""
        outputs: list[LogOutput] = []
        for record in records:
            data = record.data
            if record.offset < self._offset:
                data = data[self._offset - record.offset :]
            if data:
                if not self._offset:
                    mark("first output")
                self._offset = record.end
                outputs.append((record.stream, record.time_ns, self._offset, data))
        if not outputs:
            return
        if self._log is not None:
            if sum(len(data) for *_, data in outputs) <= _FEW_BYTES:
                written = self._log.write(outputs)
            else:
                # Splits thousands of lines, and waits for the disk while a flood fills the page cache.
                written = await trio.to_thread.run_sync(self._log.write, outputs)
            # In one turn with the choice of clients in `publish_all`: a client that attaches later finds the output in the log.
            self._log.commit(written)
            self._streams.on_logged()
        self._unsynced.set()
        progress, self._progress = self._progress, trio.Event()
        progress.set()
        await self._streams.fanout.publish_all([(stream, data) for stream, _, _, data in outputs])

    async def _sync_loop(self) -> None:
        while True:
            await self._unsynced.wait()
            if self._offset - self._acknowledged < _SYNC_BYTES:
                await trio.sleep(_SYNC_SECONDS)
            self._unsynced = trio.Event()
            await self._sync()

    async def _sync(self) -> None:
        """Sync the log to disk, then acknowledge the output, which the guest may drop then."""
        offset = self._offset
        if offset == self._acknowledged:
            return
        if self._log is not None:
            await trio.to_thread.run_sync(self._log.sync)
        try:
            await self.session.acknowledge(self._id, offset)
            self._acknowledged = offset
        except VchError:
            pass  # the link is being reset; the next output is acknowledged together with this
