"""Logs from their files: selection, timestamps, frames, and following a container that ends."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from appliance.api.logs import LogQuery, render, send_logs
from appliance.http import Reply, Request
from appliance.streams import stdcopy
from appliance.streams.logfile import LogFile
from tests.appliance.http.wire import served

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


def _text(log: LogFile, query: LogQuery, *, framed: bool = False) -> bytes:
    return b"".join(render(log, query, log.first, log.entries, framed=framed))


def test_streams(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert _text(log, LogQuery(_BOTH)) == b"out\nerr\nlong line\n"
    assert _text(log, LogQuery(frozenset({2}))) == b"err\n"
    assert _text(log, LogQuery(frozenset())) == b""
    log.close()


def test_frames(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert _text(log, LogQuery(frozenset({2})), framed=True) == stdcopy.header(2, 4) + b"err\n"
    log.close()


def test_timestamps_stand_before_lines_not_before_parts_of_lines(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert _text(log, LogQuery(frozenset({1}), timestamps=True)) == (
        b"1970-01-01T00:00:01.000000000Z out\n1970-01-01T00:00:03.000000000Z long line\n"
    )
    log.close()


def test_until(tmp_path: Path) -> None:
    log = _log(tmp_path)
    assert _text(log, LogQuery(_BOTH, until=2 * _SECOND)) == b"out\nerr\n"
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
