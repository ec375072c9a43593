"""The accept loop: connections, failures of one of them, no descriptors left, too many at once."""

import errno
import logging
import socket

import pytest
import trio
from trio.testing import MockClock

from appliance.http import accept_connections
from appliance.http.listener import open_tcp_listener, send_at_once


async def _hello(connection: trio.socket.SocketType) -> None:
    await connection.send(b"hello")


async def _dial(port: int) -> trio.socket.SocketType:
    client = trio.socket.socket()
    try:
        await client.connect(("127.0.0.1", port))
    except OSError:
        client.close()
        raise
    return client


async def test_connections_are_served_and_closed() -> None:
    listener = await open_tcp_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(listener, _hello, nursery, name="test")

        nursery.start_soon(accept)
        for _ in range(3):
            with await _dial(port) as client:
                assert await client.recv(100) == b"hello"
                assert await client.recv(100) == b""
        nursery.cancel_scope.cancel()
    assert listener.fileno() < 0
    with pytest.raises(OSError):
        await _dial(port)


async def test_small_answers_do_not_wait_for_acknowledgements() -> None:
    """Two small writes in a row, as TLS and streams make them: with Nagle's algorithm the second waits for the peer's delayed ACK."""
    options = []

    async def serve(connection: trio.socket.SocketType) -> None:
        options.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    listener = await open_tcp_listener("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(listener, serve, nursery, name="test")

        nursery.start_soon(accept)
        with await _dial(listener.getsockname()[1]) as client:
            assert await client.recv(100) == b""
        nursery.cancel_scope.cancel()
    assert options == [1]
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        # A unix socket has no such option.
        send_at_once(ours)


async def test_a_connection_that_fails_does_not_end_the_others(caplog: pytest.LogCaptureFixture) -> None:
    failed = False

    async def fail_once(connection: trio.socket.SocketType) -> None:
        nonlocal failed
        if not failed:
            failed = True
            raise RuntimeError("a fault")
        await _hello(connection)

    listener = await open_tcp_listener("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(listener, fail_once, nursery, name="test")

        nursery.start_soon(accept)
        with caplog.at_level(logging.ERROR), await _dial(listener.getsockname()[1]) as client:
            assert await client.recv(100) == b""
        with await _dial(listener.getsockname()[1]) as client:
            assert await client.recv(100) == b"hello"
        nursery.cancel_scope.cancel()
    assert [record.getMessage() for record in caplog.records] == ["test: a connection failed"]


async def test_more_connections_than_the_limit_are_closed_at_once() -> None:
    release = trio.Event()

    async def wait(connection: trio.socket.SocketType) -> None:
        await connection.send(b"served")
        await release.wait()

    listener = await open_tcp_listener("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with trio.open_nursery() as nursery:

        async def accept() -> None:
            await accept_connections(listener, wait, nursery, name="test", limit=2)

        nursery.start_soon(accept)
        with await _dial(port) as first, await _dial(port) as second:
            assert await first.recv(100) == await second.recv(100) == b"served"
            with await _dial(port) as third:
                assert await third.recv(100) == b""
            release.set()
            assert await first.recv(100) == await second.recv(100) == b""
            with await _dial(port) as fourth:
                assert await fourth.recv(100) == b"served"
        nursery.cancel_scope.cancel()


class _Exhausted:
    """A listener without descriptors for its first three connections."""

    def __init__(self, connection: trio.socket.SocketType) -> None:
        self._connection = connection
        self.failures = 0
        self.closed = False

    async def accept(self) -> tuple[trio.socket.SocketType, str]:
        await trio.lowlevel.checkpoint()
        if self.failures < 3:
            self.failures += 1
            raise OSError(errno.EMFILE, "Too many open files")
        if self.failures > 3:
            await trio.sleep_forever()
        self.failures += 1
        return self._connection, ""

    def __enter__(self) -> "_Exhausted":
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


async def test_a_loop_without_descriptors_waits(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = trio.socket.socketpair()
    listener = _Exhausted(theirs)
    with ours:
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                await accept_connections(listener, _hello, nursery, name="test")  # type: ignore[arg-type]

            nursery.start_soon(accept)
            begin = trio.current_time()
            assert await ours.recv(100) == b"hello"
            assert trio.current_time() - begin == pytest.approx(0.3)
            nursery.cancel_scope.cancel()
    assert listener.closed
    assert [record.getMessage() for record in caplog.records] == ["test: accept: [Errno 24] Too many open files"] * 3


async def test_a_port_that_is_taken() -> None:
    with await open_tcp_listener("127.0.0.1", 0) as listener:
        with pytest.raises(OSError, match="Address already in use"):
            await open_tcp_listener("127.0.0.1", listener.getsockname()[1])


async def test_ipv6_and_a_device_that_does_not_exist() -> None:
    with await open_tcp_listener("::1", 0) as listener:
        assert listener.getsockname()[0] == "::1"
    with pytest.raises(OSError):
        await open_tcp_listener("127.0.0.1", 0, "no-such-device")
