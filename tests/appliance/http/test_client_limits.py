"""Floods of half requests: their time and their memory."""

import os

import pytest
import trio
from trio.testing import MockClock

from appliance.http import ClientLimits, Readiness, Reply, Request, client_limits, serve_connection
from appliance.http.client_limits import MAX_UNFINISHED_BYTES, Unfinished
from tests.appliance.http.wire import answer, common, echo, served


async def test_the_oldest_operation_makes_room() -> None:
    unfinished = Unfinished(10, 1000)
    ended: list[str] = []

    async def wait(name: str, size: int) -> None:
        with unfinished.operation() as grow:
            grow(size)
            await trio.sleep_forever()
        ended.append(name)

    async with trio.open_nursery() as nursery:
        for name, size, gone in (
            ("a", 4, []),
            ("b", 5, []),
            ("c", 1, []),
            ("d", 2, ["a"]),
            ("e", 9, ["a", "b", "c", "d"]),
        ):
            nursery.start_soon(wait, name, size)
            await trio.testing.wait_all_tasks_blocked()
            assert sorted(ended) == gone
        nursery.cancel_scope.cancel()


async def test_an_operation_gives_its_room_back() -> None:
    unfinished = Unfinished(10, 1000)
    for _ in range(3):
        with unfinished.operation() as grow:
            grow(10)
            await trio.lowlevel.checkpoint()
            grow(7)
            await trio.lowlevel.checkpoint()


async def test_an_operation_ends_in_time(autojump_clock: MockClock) -> None:
    begin = trio.current_time()
    with Unfinished(10, 5).operation():
        await trio.sleep_forever()
    assert trio.current_time() - begin == 5


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


async def test_half_heads_have_a_bound_in_all_and_others_are_served() -> None:
    """Before there was a bound, 400 half heads cost 24 MB, and 4000 243 MB."""
    limits, readiness = ClientLimits(), Readiness()
    half = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 60_000
    before = _resident()
    clients = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        for _ in range(400):
            ours, theirs = trio.socket.socketpair()
            clients.append(ours)
            nursery.start_soon(serve_connection, theirs, echo, common, readiness, limits)
            await trio.SocketStream(ours).send_all(half)
        await trio.testing.wait_all_tasks_blocked()
        # The first clients were cut off, the last one goes on.
        assert await clients[0].recv(1) == b""
        assert _resident() - before < MAX_UNFINISHED_BYTES + (6 << 20)
        await clients[-1].send(b"\r\n\r\n")
        assert await clients[-1].recv(1000) == answer(b"GET / ")
        nursery.cancel_scope.cancel()
    for client in clients:
        client.close()


async def test_half_bodies_have_a_bound_in_all_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_limits, "MAX_UNFINISHED_BODIES", 200_000)
    limits, readiness = ClientLimits(), Readiness()
    body = b'"' + b"x" * 60_000 + b'"'
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def length(request: Request, reply: Reply) -> None:
        await reply.json(200, len(await request.json()))

    clients = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.run)
        for _ in range(5):
            ours, theirs = trio.socket.socketpair()
            clients.append(ours)
            nursery.start_soon(serve_connection, theirs, length, common, readiness, limits)
            await ours.send(head + body[:-1])
            await trio.testing.wait_all_tasks_blocked()
        # Three bodies have room. The first clients were cut off, the others go on.
        for client in clients[:2]:
            assert await client.recv(1) == b""
        for client in clients[2:]:
            await client.send(body[-1:])
            assert (await client.recv(1000)).endswith(b"60000\n")
        nursery.cancel_scope.cancel()
    for client in clients:
        client.close()


async def test_the_rest_of_a_body_that_nobody_reads_comes_in_time(autojump_clock: MockClock) -> None:
    async def ignore(request: Request, reply: Reply) -> None:
        await reply.empty(204)

    async with served(ignore) as client:
        await client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
        await client.expect(b"HTTP/1.1 204 No Content\r\nServer: test\r\n\r\n")
        begin = trio.current_time()
        assert await client.socket.recv(1) == b""
        assert trio.current_time() - begin < client_limits.HEAD_SECONDS + 5


async def test_a_body_comes_in_time(autojump_clock: MockClock) -> None:
    limits = ClientLimits()
    begin = trio.current_time()
    with limits.unfinished_body():
        await trio.sleep_forever()
    assert trio.current_time() - begin == client_limits.BODY_SECONDS
