"""GET /containers/{name}/logs. Log files hold Docker's stdcopy frames, so that sendfile(2) serves most requests."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import trio

from appliance.api.backend import Container
from appliance.container.times import rfc3339
from appliance.http import Reply
from appliance.streams import stdcopy
from appliance.streams.logfile import Entry, LogFile, Place

# Bytes of a batch that is rendered, entries that are looked at for a batch, and bytes of the file that are sent at once.
_BATCH = 64 << 10
_BATCH_ENTRIES = 4096
_FILE_PIECE, _COPIED_PIECE = 1 << 20, 256 << 10
# As much is rendered on the event loop: a thread costs more.
_FEW_ENTRIES, _FEW_BYTES = 64, 8 << 10


@dataclass(frozen=True, slots=True)
class LogQuery:
    """The query parameters of the route. `streams`: 1 stdout, 2 stderr. `tail` None: all entries. Times are unix ns.

    `details` stands before each line, see `logdrivers.details_prefix`.
    """

    streams: frozenset[int]
    follow: bool = False
    tail: int | None = None
    since: int | None = None
    until: int | None = None
    timestamps: bool = False
    details: bytes = b""


def _select(log: LogFile, query: LogQuery, last: int) -> Place:
    first = log.first_at(query.since) if query.since is not None else log.first
    place = Place(first)
    if query.tail is not None:
        tail = log.tail_start(query.tail, query.streams, last)
        place = tail if tail.entry >= first else place
    return place


class _Renderer:
    """Renders entries in batches, filtered and decorated as the query says. `framed`: with stdcopy headers."""

    def __init__(self, log: LogFile, query: LogQuery, *, framed: bool) -> None:
        self.log = log
        self._query = query
        self._framed = framed
        # Streams whose last line has no end yet.
        self._middle: set[int] = set()

    def batch(self, place: Place, last: int) -> tuple[bytes, Place]:
        """Render entries before `last`; return some output, which may be empty, and the place behind it. Blocking."""
        log = self.log
        while True:
            # Rotation may have dropped entries.
            place = place if place.entry >= log.first else Place(log.first)
            stop = min(last, place.entry + _BATCH_ENTRIES)
            entries = list(log.iterate(place.entry, stop))
            if not entries:
                return b"", Place(max(last, place.entry))
            with log.pinned(entries[0].position, entries[-1].position + entries[-1].length):
                if log.first <= place.entry:
                    return self._render(entries, place)

    def _render(self, entries: list[Entry], place: Place) -> tuple[bytes, Place]:
        out: list[bytes] = []
        size = 0
        number = place.entry
        for entry in entries:
            piece = self._piece(entry, place.line if number == place.entry else 0)
            number += 1
            if entry.partial:
                self._middle.add(entry.stream)
            else:
                self._middle.discard(entry.stream)
            if piece:
                out.append(piece)
                size += len(piece)
                if size >= _BATCH:
                    break
        return b"".join(out), Place(number)

    def _piece(self, entry: Entry, skip: int) -> bytes:
        query = self._query
        if entry.stream not in query.streams or (query.until is not None and entry.time_ns > query.until):
            return b""
        lines = self.log.lines(entry)[skip:]
        before = (rfc3339(entry.time_ns).encode() + b" " if query.timestamps else b"") + query.details
        if before:
            first = lines[0] if entry.stream in self._middle else before + lines[0]
            lines = [first, *(before + line for line in lines[1:])]
        if self._framed:
            lines = [stdcopy.frame(entry.stream, line) for line in lines]
        return b"".join(lines)


async def _batch(renderer: _Renderer, place: Place, last: int) -> tuple[bytes, Place]:
    log = renderer.log
    if last - place.entry <= _FEW_ENTRIES and log.position(Place(last)) - log.position(place) <= _FEW_BYTES:
        return renderer.batch(place, last)
    return await trio.to_thread.run_sync(renderer.batch, place, last)


async def render(
    log: LogFile, query: LogQuery, place: Place, last: int, *, framed: bool
) -> AsyncGenerator[bytes, None]:
    """The entries from a place to number `last` - 1 in batches, filtered and decorated as the query says."""
    renderer = _Renderer(log, query, framed=framed)
    while place.entry < last:
        data, place = await _batch(renderer, place, last)
        if data:
            yield data


async def _send_from_file(reply: Reply, log: LogFile, place: Place, last: int, *, grows: bool) -> None:
    """Send entries as they are in the file.

    With `grows` the bytes are copied: sendfile(2) leaves pages of the file in the socket, and the hole that rotation makes zeroes
    parts of pages while a slow client has not read them.
    """
    number, position = place.entry, log.position(place)
    while number < last:
        # Whole entries: rotation may drop what comes next.
        following = log.number_at(position + (_COPIED_PIECE if grows else _FILE_PIECE), number + 1, last)
        entry = log.entry(following - 1)
        end = entry.position + entry.length
        with log.pinned(position, end):
            if log.first > number:
                # Rotation has dropped this meanwhile.
                number = log.first
                position = log.entry(number).position
                continue
            if grows:
                data = log.read(position, end - position)
            else:
                await reply.send_file(log.fileno(), position, end - position)
        if grows:
            await reply.write(data)
        number, position = following, end
        await trio.lowlevel.checkpoint()


async def send_logs(reply: Reply, container: Container, query: LogQuery) -> None:
    """Send the stored entries; with `follow`, also new entries until the container exits. The head is sent already."""
    log = container.open_log()
    decorated = query.timestamps or query.details
    plain = not decorated and query.until is None and (query.streams == {1, 2} or not log.framed)
    renderer = _Renderer(log, query, framed=log.framed)
    if query.tail is None and query.since is None:
        place = Place(log.first)
    else:
        place = await trio.to_thread.run_sync(_select, log, query, log.entries)
    while True:
        ended = not container.running
        last = log.entries
        if place.entry < log.first:
            place = Place(log.first)
        if query.until is not None:
            # Entries are in the order of time: look at none behind `until`.
            last = max(place.entry, min(last, log.first_at(query.until + 1)))
        past_until = last < log.entries
        while last > place.entry:
            if plain:
                await _send_from_file(reply, log, place, last, grows=not ended and log.rotates)
                place = Place(last)
            else:
                data, place = await _batch(renderer, place, last)
                await reply.write(data)
        if not query.follow or container.removed or past_until:
            return
        if log.entries > place.entry:
            continue
        if ended:
            return
        await container.log_news.wait()
