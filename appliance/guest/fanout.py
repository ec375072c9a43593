"""Distributes the output of a process to all attached clients."""

from collections.abc import AsyncGenerator, Iterator, Sequence

import trio

_WAITING = 16
_PIECE = 64 << 10


class Attachment:
    """The output for one client: (stream, data) until the run ends, or until `close`."""

    def __init__(self, fanout: "Fanout", streams: frozenset[int]) -> None:
        self.streams = streams
        self._fanout = fanout
        self.sender, self._receiver = trio.open_memory_channel[tuple[int, bytes]](_WAITING)

    async def output(self) -> AsyncGenerator[tuple[int, bytes], None]:
        async for item in self._receiver:
            yield item

    def close(self) -> None:
        self._fanout.remove(self)
        self._receiver.close()
        self.sender.close()


def _joined(outputs: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """The same outputs, in pieces of up to `_PIECE` bytes where neighbours are of the same stream."""
    parts: list[bytes] = []
    size = last = 0
    for stream, data in outputs:
        if parts and (stream != last or size + len(data) > _PIECE):
            yield last, b"".join(parts)
            parts, size = [], 0
        parts.append(data)
        size += len(data)
        last = stream
    if parts:
        yield last, b"".join(parts)


class Fanout:
    """All attachments of one container, also while it does not run: a client that attaches before the start gets all output."""

    def __init__(self) -> None:
        self._attachments: list[Attachment] = []

    @property
    def attached(self) -> bool:
        """Whether a client is attached."""
        return bool(self._attachments)

    def attach(self, streams: frozenset[int]) -> Attachment:
        attachment = Attachment(self, streams)
        self._attachments.append(attachment)
        return attachment

    def remove(self, attachment: Attachment) -> None:
        if attachment in self._attachments:
            self._attachments.remove(attachment)

    async def publish(self, stream: int, data: bytes) -> None:
        """Send data to all clients. The slowest client blocks the process, as in Docker."""
        await self.publish_all([(stream, data)])

    async def publish_all(self, outputs: Sequence[tuple[int, bytes]]) -> None:
        """Send outputs in their order to the clients that are attached at the call. Small outputs of one stream are joined."""
        attachments = list(self._attachments)
        if not attachments:
            return
        for stream, data in _joined(outputs) if len(outputs) > 1 else outputs:
            for attachment in attachments:
                if stream in attachment.streams:
                    try:
                        await attachment.sender.send((stream, data))
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        self.remove(attachment)

    def end_run(self) -> None:
        """The run is over: each attachment ends after the output that is queued."""
        for attachment in self._attachments:
            attachment.sender.close()
        self._attachments.clear()
