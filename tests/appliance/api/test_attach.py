"""A client's connection and a container's stdio, joined."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from appliance.api.attach import pump
from appliance.guest import Fanout
from appliance.http import HijackedStream
from appliance.streams import stdcopy
from appliance.streams.detach import parse_keys
from tests.appliance.http.wire import Client


class _Stdin:
    """A StdinPipe of a process that takes everything, until `broken`."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = False
        self.broken = False

    async def write(self, data: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        if self.broken:
            return False
        self.data += data
        return True

    def close(self) -> None:
        self.closed = True


class _Joined:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.fanout = Fanout()
        self.stdin = _Stdin()
        self.ended = trio.Event()


@asynccontextmanager
async def _joined(*, output: bool = True, stdin: bool = True, **options: Any) -> AsyncIterator[_Joined]:
    """A pump between a socket pair and a process without a terminal; `options` are those of `pump`."""
    ours, theirs = trio.socket.socketpair()
    joined = _Joined(Client(ours))
    attachment = joined.fanout.attach(frozenset({1, 2})) if output else None
    settings: Any = {
        "tty": False,
        "closes_stdin": True,
        "keys": parse_keys(""),
        "past": None,
        "framed": True,
        **options,
    }

    async def run() -> None:
        with theirs:
            await pump(
                HijackedStream(theirs),
                attachment,
                stdin=joined.stdin if stdin else None,  # type: ignore[arg-type]
                **settings,
            )
        joined.ended.set()

    with ours, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await trio.testing.wait_all_tasks_blocked()
            yield joined
            ours.close()


async def test_output_is_framed_and_ends_with_the_process() -> None:
    async with _joined() as joined:
        await joined.fanout.publish(1, b"out")
        await joined.fanout.publish(2, b"err")
        joined.fanout.end_run()
        await joined.client.expect_end(stdcopy.header(1, 3) + b"out" + stdcopy.header(2, 3) + b"err")


async def _older() -> AsyncGenerator[bytes, None]:
    yield b"older "
    yield b"output "


async def test_plain_output_behind_what_was_there_before() -> None:
    async with _joined(framed=False, past=_older()) as joined:
        await joined.fanout.publish(1, b"new")
        joined.fanout.end_run()
        await joined.client.expect_end(b"older output new")


async def test_input_and_its_end() -> None:
    async with _joined() as joined:
        await joined.client.send(b"typed")
        joined.client.end()
        await trio.testing.wait_all_tasks_blocked()
        assert (joined.stdin.data, joined.stdin.closed, joined.ended.is_set()) == (b"typed", True, False)
        await joined.fanout.publish(1, b"still here")
        joined.fanout.end_run()
        await joined.client.expect_end(stdcopy.header(1, 10) + b"still here")


@pytest.mark.parametrize("tty", [True, False])
async def test_the_end_of_input_detaches_where_it_does_not_end_stdin(tty: bool) -> None:
    """As moby's container/stream/attach.go, and as dockerd 20.10 answers."""
    async with _joined(closes_stdin=False, tty=tty) as joined:
        await joined.client.send(b"typed")
        joined.client.end()
        await joined.client.expect_end()
        assert (joined.stdin.data, joined.stdin.closed, joined.ended.is_set()) == (b"typed", False, True)


async def test_older_output_comes_also_when_the_input_has_ended() -> None:
    async def older() -> AsyncGenerator[bytes, None]:
        yield b"older"

    async with _joined(closes_stdin=False, past=older()) as joined:
        joined.client.end()
        await joined.client.expect_end(b"older")


async def test_input_alone_ends_with_the_client() -> None:
    async with _joined(output=False) as joined:
        await joined.client.send(b"typed")
        joined.client.end()
        await joined.client.expect_end()
        assert (joined.stdin.data, joined.stdin.closed) == (b"typed", True)


async def test_a_process_that_takes_no_more_input() -> None:
    async with _joined() as joined:
        joined.stdin.broken = True
        await joined.client.send(b"typed" * 1000)
        await joined.client.send(b"more" * 1000)
        await joined.fanout.publish(1, b"x")
        joined.fanout.end_run()
        await joined.client.expect_end(stdcopy.header(1, 1) + b"x")
        assert joined.stdin.data == b""


async def test_detach_keys_at_a_terminal() -> None:
    async with _joined(tty=True, framed=False) as joined:
        await joined.client.send(b"abc\x10\x11ignored")
        await joined.ended.wait()
        assert (joined.stdin.data, joined.stdin.closed) == (b"abc", False)


async def test_without_stdin_input_is_dropped() -> None:
    async with _joined(stdin=False) as joined:
        await joined.client.send(b"typed")
        joined.client.end()
        await trio.testing.wait_all_tasks_blocked()
        assert not joined.ended.is_set()
        joined.fanout.end_run()
        await joined.client.expect_end()


async def test_a_client_that_is_gone_detaches() -> None:
    async with _joined() as joined:
        joined.client.socket.close()
        while not joined.ended.is_set():
            await joined.fanout.publish(1, b"x" * 65536)
            await trio.lowlevel.checkpoint()
