"""The socket of a build client: who closes it, and when."""

import asyncio
import socket

import pytest

from appliance.buildkit.client_socket import client_streams


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    ours.settimeout(5)
    return ours, theirs


def test_the_last_answers_reach_a_client_that_reads_slowly() -> None:
    async def main() -> None:
        ours, theirs = _pair()
        with ours:

            def read() -> int:
                received = 0
                while piece := ours.recv(1 << 16):
                    received += len(piece)
                return received

            async with client_streams(theirs) as (_, writer):
                writer.write(bytes(4 << 20))
                reading = asyncio.create_task(asyncio.to_thread(read))
            assert await reading == 4 << 20
        assert theirs.fileno() < 0

    asyncio.run(main())


def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.buildkit.client_socket._FLUSH_SECONDS", 0.05)

    async def main() -> None:
        ours, theirs = _pair()
        with ours:
            async with client_streams(theirs) as (_, writer):
                writer.write(bytes(4 << 20))
            await asyncio.sleep(0)
            assert theirs.fileno() < 0

    asyncio.run(main())


def test_a_cancelled_connection_is_closed() -> None:
    async def main() -> None:
        ours, theirs = _pair()

        async def serve() -> None:
            async with client_streams(theirs) as (reader, _):
                await reader.read(1)

        with ours:
            task = asyncio.create_task(serve())
            await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert theirs.fileno() < 0

    asyncio.run(main())


def test_a_client_that_has_left_is_no_error() -> None:
    async def main() -> None:
        ours, theirs = _pair()
        ours.close()
        async with client_streams(theirs) as (_, writer):
            writer.write(b"x")
            await asyncio.sleep(0.01)
        assert theirs.fileno() < 0

    asyncio.run(main())
