"""GET /containers/{name}/logs. Log files hold Docker's stdcopy frames, so that sendfile(2) serves most requests."""

from collections.abc import Iterator
from dataclasses import dataclass

from appliance.api.backend import Container
from appliance.container.times import rfc3339
from appliance.http import Reply
from appliance.streams import stdcopy
from appliance.streams.logfile import Entry, LogFile

_BATCH = 64 << 10


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


def _select(log: LogFile, query: LogQuery, last: int) -> int:
    first = log.first_at(query.since) if query.since is not None else log.first
    if query.tail is not None:
        first = max(first, log.tail_start(query.tail, query.streams, last))
    return first


def render(log: LogFile, query: LogQuery, first: int, last: int, *, framed: bool) -> Iterator[bytes]:
    """The entries [first, last) in batches, filtered and decorated as the query says."""
    out: list[bytes] = []
    size = 0
    middle: set[int] = set()
    for entry in log.iterate(first, last):
        piece = _piece(log, query, entry, middle, framed)
        if entry.partial:
            middle.add(entry.stream)
        else:
            middle.discard(entry.stream)
        if piece:
            out.append(piece)
            size += len(piece)
            if size >= _BATCH:
                yield b"".join(out)
                out, size = [], 0
    if out:
        yield b"".join(out)


def _piece(log: LogFile, query: LogQuery, entry: Entry, middle: set[int], framed: bool) -> bytes:
    if entry.stream not in query.streams or (query.until is not None and entry.time_ns > query.until):
        return b""
    data = log.payload(entry)
    if entry.stream not in middle:
        data = query.details + data
        if query.timestamps:
            data = rfc3339(entry.time_ns).encode() + b" " + data
    return stdcopy.frame(entry.stream, data) if framed else data


async def send_logs(reply: Reply, container: Container, query: LogQuery) -> None:
    """Send the stored entries; with `follow`, also new entries until the container exits. The head is sent already."""
    log = container.open_log()
    plain = (
        not query.timestamps
        and not query.details
        and query.until is None
        and (query.streams == {1, 2} or not log.framed)
    )
    position = _select(log, query, log.entries)
    while True:
        ended = not container.running
        last = log.entries
        # Rotation may have dropped entries meanwhile.
        position = max(position, log.first)
        if last > position:
            if plain:
                start, end = log.entry(position), log.entry(last - 1)
                await reply.send_file(log.fileno(), start.position, end.position + end.length - start.position)
            else:
                for data in render(log, query, position, last, framed=log.framed):
                    await reply.write(data)
            position = last
        past_until = query.until is not None and last and log.entry(last - 1).time_ns > query.until
        if not query.follow or container.removed or past_until:
            return
        if log.entries > position:
            continue
        if ended:
            return
        await container.log_news.wait()
