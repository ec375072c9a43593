"""Logs from their files: selection, timestamps, frames, and following a container that ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from appliance.api.logs import LogQuery, render, send_logs
from appliance.http import Reply, Request
from appliance.streams import stdcopy
from appliance.streams.logfile import LogFile, Place
from tests.appliance.http.wire import served
from tests.steps import cpu_of_steps

_SECOND = 1_000_000_000
_BOTH = frozenset({1, 2})
_HEAD = b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"


def _log(folder: Path, *, framed: bool = True) -> LogFile:
    """One line a second: stdout, stderr, then a line of stdout in two parts. A terminal has only stdout."""
    log = LogFile(folder, framed=framed)
    offset = 0
    for second, stream, data in ((1, 1, b"out\n"), (2, 2, b"err\n"), (3, 1, b"long "), (4, 1, b"line\n")):
        offset += len(data)
        log.append(stream if framed else 1, second * _SECOND, offset, data)
    return log


async def _text(log: LogFile, query: LogQuery, *, framed: bool = False) -> bytes:
    return b"".join([data async for data in render(log, query, Place(log.first), log.entries, framed=framed)])


async def test_streams(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert await _text(log, LogQuery(_BOTH)) == b"out\nerr\nlong line\n"
    assert await _text(log, LogQuery(frozenset({2}))) == b"err\n"
    assert await _text(log, LogQuery(frozenset())) == b""
    log.close()


async def test_frames(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert await _text(log, LogQuery(frozenset({2})), framed=True) == stdcopy.header(2, 4) + b"err\n"
    log.close()


async def test_timestamps_stand_before_lines_not_before_parts_of_lines(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert await _text(log, LogQuery(frozenset({1}), timestamps=True)) == (
        b"1970-01-01T00:00:01.000000000Z out\n1970-01-01T00:00:03.000000000Z long line\n"
    )
    log.close()


async def test_until(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert await _text(log, LogQuery(_BOTH, until=2 * _SECOND)) == b"out\nerr\n"
    log.close()


async def _sent(log: LogFile, query: LogQuery, container: Any = None) -> bytes:
    """The body of an answer."""
    box: Any = container or SimpleNamespace(open_log=lambda: log, running=False, removed=False, log_news=trio.Event())

    async def handle(request: Request, reply: Reply) -> None:
        await reply.start("text/plain")
        await send_logs(reply, box, query)

    async with served(handle) as client:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")
        answer = await client.receive(1 << 20)
    return answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (LogQuery(_BOTH), b"out\nerr\nlong line\n"),
        (LogQuery(_BOTH, tail=1), b"long line\n"),
        (LogQuery(_BOTH, tail=2), b"err\nlong line\n"),
        (LogQuery(_BOTH, tail=0), b""),
        (LogQuery(_BOTH, since=2 * _SECOND), b"err\nlong line\n"),
        (LogQuery(_BOTH, since=2 * _SECOND, until=2 * _SECOND), b"err\n"),
        (LogQuery(frozenset({1}), tail=2), b"err\nlong line\n"),
    ],
)
async def test_answers_of_a_terminal(tmp_path: Path, query: LogQuery, text: bytes) -> None:
    log = _log(tmp_path, framed=False)
    assert await _sent(log, query) == text
    log.close()


async def test_both_streams_are_sent_as_they_are_in_the_file(tmp_path: Path) -> None:
    log = _log(tmp_path)
    expected = b"".join(
        stdcopy.header(stream, len(data)) + data
        for stream, data in ((1, b"out\n"), (2, b"err\n"), (1, b"long "), (1, b"line\n"))
    )
    assert await _sent(log, LogQuery(_BOTH)) == expected
    assert await _sent(log, LogQuery(_BOTH, timestamps=True)) != expected
    log.close()


async def test_follow_ends_with_the_container(tmp_path: Path) -> None:
    log = _log(tmp_path, framed=False)
    box = SimpleNamespace(open_log=lambda: log, running=True, removed=False, log_news=trio.Event())

    async def go_on() -> None:
        await trio.testing.wait_all_tasks_blocked()
        log.append(1, 5 * _SECOND, log.guest_offset + 5, b"more\n")
        news, box.log_news = box.log_news, trio.Event()
        news.set()
        await trio.testing.wait_all_tasks_blocked()
        box.running = False
        box.log_news.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go_on)
        assert await _sent(log, LogQuery(_BOTH, follow=True, tail=0), box) == b"more\n"
    log.close()


# -- lines that came at once, and floods -----------------------------------------------------------------------------------


async def test_lines_of_one_entry(tmp_path: Path) -> None:
    log = LogFile(tmp_path, framed=True)
    log.append(1, 1 * _SECOND, 12, b"one\ntwo\nthr")
    log.append(1, 2 * _SECOND, 20, b"ee\nfour\n")
    stamps = [f"1970-01-01T00:00:0{second}.000000000Z ".encode() for second in (1, 2)]
    assert await _text(log, LogQuery(_BOTH, timestamps=True)) == (
        stamps[0] + b"one\n" + stamps[0] + b"two\n" + stamps[0] + b"three\n" + stamps[1] + b"four\n"
    )
    frames = [stdcopy.frame(1, line) for line in (b"one\n", b"two\n", b"thr", b"ee\n", b"four\n")]
    assert await _sent(log, LogQuery(_BOTH)) == b"".join(frames)
    assert await _sent(log, LogQuery(_BOTH, tail=2)) == b"".join(frames[2:])
    assert await _sent(log, LogQuery(_BOTH, tail=3)) == b"".join(frames[1:])
    assert await _sent(log, LogQuery(frozenset({1}), tail=1)) == frames[4]
    log.close()


def _flooded(folder: Path, **limits: int) -> LogFile:
    """A quarter of a million lines of a byte on stdout, one line on stderr before and after them."""
    log = LogFile(folder, framed=True, **limits)
    log.append(2, 1, 2, b"a\n")
    for number in range(4):
        log.append(1, 2 + number, 2 + (number + 1) * 65536, b"\n" * 65536)
    log.append(2, 100, 4 + 4 * 65536, b"b\n")
    return log


@pytest.mark.parametrize(
    ("query", "size"),
    [
        (LogQuery(_BOTH), 2 * 10 + 4 * 65536 * 9),
        (LogQuery(frozenset({2})), 20),
        (LogQuery(frozenset({2}), tail=5), 20),
        (LogQuery(_BOTH, until=1), 10),
        (LogQuery(_BOTH, since=50), 10),
        (LogQuery(frozenset({1}), tail=200_000), 200_000 * 9),
        (LogQuery(frozenset({1}), tail=2000, timestamps=True), 2000 * 40),
    ],
)
async def test_reading_a_flood_keeps_no_turn_long(tmp_path: Path, query: LogQuery, size: int) -> None:
    """16 s for 4.4 million entries was one turn of the event loop."""
    log = _flooded(tmp_path)
    box: Any = SimpleNamespace(open_log=lambda: log, running=False, removed=False, log_news=trio.Event())
    received = 0

    async def handle(request: Request, reply: Reply) -> None:
        await reply.start("text/plain")
        await send_logs(reply, box, query)

    with cpu_of_steps() as steps:
        async with served(handle) as client:
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            received = len((await client.receive(1 << 26)).partition(b"\r\n\r\n")[2])
    assert received == size
    assert steps.longest < 0.05, steps
    log.close()


async def test_older_output_for_an_attach_comes_in_batches(tmp_path: Path) -> None:
    log = _flooded(tmp_path)
    largest = total = 0
    with cpu_of_steps() as steps:
        async for data in render(log, LogQuery(_BOTH), Place(0), log.entries, framed=True):
            largest, total = max(largest, len(data)), total + len(data)
    assert total == 20 + 4 * 65536 * 9
    assert largest < 256 << 10
    assert steps.longest < 0.05, steps
    log.close()


@pytest.mark.parametrize("timestamps", [False, True])
async def test_a_slow_reader_of_a_log_that_rotates_gets_whole_frames(tmp_path: Path, timestamps: bool) -> None:
    """What was dropped is missing, but no frame is torn and no zeros are sent."""
    log = LogFile(tmp_path, framed=True, piece=300_000, pieces=2)
    box: Any = SimpleNamespace(open_log=lambda: log, running=True, removed=False, log_news=trio.Event())
    sent = 0

    def more(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            line = b"%099d\n" % sent
            sent += 1
            log.append(1, sent, sent * 100, line * 1)
        news, box.log_news = box.log_news, trio.Event()
        news.set()

    async def handle(request: Request, reply: Reply) -> None:
        await reply.start("text/plain")
        await send_logs(reply, box, LogQuery(_BOTH, follow=True, timestamps=timestamps))

    more(4000)
    answer = b""
    async with served(handle) as client, trio.open_nursery() as nursery:
        await client.send(b"GET / HTTP/1.0\r\n\r\n")

        async def write() -> None:
            for _ in range(20):
                more(1000)
                await trio.sleep(0.005)
            box.running = False
            more(1)

        nursery.start_soon(write)
        while piece := await client.receive(50_000):
            answer += piece
            await trio.sleep(0.001)
    body = answer.partition(b"\r\n\r\n")[2]
    numbers, at = [], 0
    while at < len(body):
        assert body[at : at + 4] == b"\1\0\0\0"
        size = int.from_bytes(body[at + 4 : at + 8], "big")
        numbers.append(int(body[at + 8 : at + 8 + size].split()[-1]))
        at += 8 + size
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == sent - 1
    log.close()
