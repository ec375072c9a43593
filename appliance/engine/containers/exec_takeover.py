"""The output of an exec that an earlier daemon started: the guest keeps its last part until a client asks for it."""

from collections import deque
from contextlib import aclosing

import trio

from appliance.guest import ExitStatus, GuestSession, OutputRecord

# Half of what the guest keeps of a process's output. The process blocks when the guest has no room.
_KEPT_BYTES = 512 << 10
# The guest counts so many bytes for each record, beside its data (tether/agent/stdio.py).
_RECORD_BYTES = 128


class ExecTakeover:
    """`offset` is where the output begins that the guest still has."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self._claimed = trio.Event()

    @property
    def claimed(self) -> bool:
        """A client takes the output."""
        return self._claimed.is_set()

    def claim(self) -> None:
        """Hand the output to the attached clients."""
        self._claimed.set()

    async def wait_claimed(self, seconds: float) -> None:
        """Return when a client takes the output, or after some time."""
        with trio.move_on_after(seconds):
            await self._claimed.wait()

    async def keep(self, session: GuestSession, process_id: str) -> ExitStatus | None:
        """Acknowledge all but the last part of the output, so that the process does not block.

        Return None when a client takes the output, and the exit status when the process has ended before. VchError when the
        guest fails or is gone.
        """
        status: ExitStatus | None = None
        kept: deque[OutputRecord] = deque()
        size = 0
        async with trio.open_nursery() as nursery:

            async def stop_when_claimed() -> None:
                await self._claimed.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop_when_claimed)
            async with aclosing(session.follow(process_id, self.offset)) as output:
                async for batch in output:
                    status = batch.exit
                    kept += batch.records
                    size += sum(len(record.data) + _RECORD_BYTES for record in batch.records)
                    if size <= _KEPT_BYTES:
                        continue
                    while size > _KEPT_BYTES:
                        oldest = kept.popleft()
                        size -= len(oldest.data) + _RECORD_BYTES
                        # Before the call: a claim must not read what the guest has dropped.
                        self.offset = oldest.end
                    await session.acknowledge(process_id, self.offset)
            nursery.cancel_scope.cancel()
        return status
