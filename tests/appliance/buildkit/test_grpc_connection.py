"""Served gRPC connections: by grpcio's client, and by clients that write frames as they like."""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import grpc.aio
import pytest

from appliance.buildkit.budget import RESERVED_BYTES, ByteBudget
from appliance.buildkit.channel import MAX_MESSAGE
from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.grpc_connection import MAX_STREAMS
from appliance.buildkit.server_call import STREAM_WINDOW, ServerCall
from appliance.errors import Unavailable
from tests.appliance.buildkit.wire import client_of, cpu_of_callbacks, data, frame, listening, raw_client, reset
from tether.rpc.http2.frames import DATA, END_STREAM, GOAWAY, PADDED, PING, PREFACE, SETTINGS
from tether.rpc.status import Code


async def _echo(call: ServerCall) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


def _check_all_is_given_back(budget: ByteBudget) -> None:
    assert budget.incoming.room == budget.outgoing.room == RESERVED_BYTES
    assert (budget.unreserved, budget._connections) == (0, {})


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(bounded())
    gc.collect()  # An error that nobody has retrieved is a warning, which fails the test.


@pytest.mark.parametrize("size", [0, 1, 16 << 10, 32 << 10, 64 << 10, 1 << 20, MAX_MESSAGE - 5])
def test_messages_of_all_sizes(size: int) -> None:
    async def main() -> None:
        budget = ByteBudget()
        async with client_of(_echo, budget) as channel:
            message = bytes(size)
            call = channel.stream_stream("/s/m")()
            for _ in range(2):
                await call.write(message)
                assert await call.read() == message
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK
            _check_all_is_given_back(budget)

    _run(main)


def test_many_messages_of_mixed_sizes_in_one_stream() -> None:
    async def main() -> None:
        budget = ByteBudget()
        sizes = [0, 40_000, 10, 33_000, 32_763, 32_764, 100, 70_000, 0, 65_531] * 10
        async with client_of(_echo, budget) as channel:

            async def requests() -> AsyncIterator[bytes]:
                for size in sizes:
                    yield bytes(size)

            call = channel.stream_stream("/s/m")(requests())
            assert [len(answer) async for answer in call] == sizes
        _check_all_is_given_back(budget)

    _run(main)


def test_more_than_the_budget_at_once() -> None:
    """Sixteen messages of 1 MiB, with room for two: they take turns."""

    async def main() -> None:
        budget = ByteBudget(reserved=(2 << 20) + 1000)
        async with client_of(_echo, budget) as channel:
            message = bytes(1 << 20)
            answers = await asyncio.gather(*(channel.unary_unary("/s/m")(message) for _ in range(16)))
            assert all(answer == message for answer in answers)
        assert budget.incoming.room == budget.outgoing.room == (2 << 20) + 1000

    _run(main)


async def _collect(call: ServerCall) -> None:
    while await call.receive() is not None:
        pass


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\0\0\0\0\x05abc", grpc.StatusCode.INTERNAL),
        (b"\0\0", grpc.StatusCode.INTERNAL),
        (b"\1\0\0\0\x00", grpc.StatusCode.UNIMPLEMENTED),
        # A message over the limit is refused by its length.
        (b"\0" + (MAX_MESSAGE + 1).to_bytes(4, "big"), grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_messages_that_are_malformed(payload: bytes, code: grpc.StatusCode) -> None:
    async def main() -> None:
        ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

        async def serve(call: ServerCall) -> None:
            try:
                await _collect(call)
            except BuildkitError as error:
                ended.set_result(error)
                raise

        async with listening(serve) as path, raw_client(path) as client:
            client.send(client.request(1), frame(DATA, END_STREAM, 1, payload))
            error = await ended
            assert isinstance(error, BuildkitError)
            assert error.code == code.value[0]

    _run(main)


def test_errors_and_their_details() -> None:
    details = bytes(300_000)

    async def serve(call: ServerCall) -> None:
        match call.path:
            case "/s/Details":
                raise BuildkitError(Code.ABORTED, "with details", details)
            case "/s/TooLarge":
                raise BuildkitError(Code.ABORTED, "t" * 100_000, bytes(1 << 20))
            case "/s/Unavailable":
                raise Unavailable("no machine")
            case _:
                raise ZeroDivisionError("a fault")

    async def main() -> None:
        async with client_of(serve) as channel:
            found = []
            for method in ("Details", "TooLarge", "Unavailable", "Fault"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(f"/s/{method}")(b"")
                error = caught.value
                size = sum(len(value) for name, value in error.trailing_metadata() if name == "grpc-status-details-bin")
                found.append((error.code().name, len(error.details()), size))
            assert found == [
                ("ABORTED", 12, 300_000),
                ("ABORTED", 64 << 10, 0),
                ("UNAVAILABLE", 10, 0),
                ("UNKNOWN", len("internal error: ZeroDivisionError('a fault')"), 0),
            ]

    _run(main)


def test_metadata_and_deadline_of_a_call() -> None:
    async def main() -> None:
        seen = []

        async def serve(call: ServerCall) -> None:
            seen.append((call.path, call.metadata(), call.timeout()))
            call.start([("x", "y")])
            await call.send(b"answer")
            call.finish(Code.OK, "", [("z", "1"), ("z-bin", b"\0")])

        async with client_of(serve) as channel:
            call = channel.unary_stream("/s/m")(b"", metadata=(("a", "b"), ("c-bin", b"\0\1")), timeout=9)
            assert ("x", "y") in list(await call.initial_metadata())
            assert await call.read() == b"answer"
            assert await call.read() is grpc.aio.EOF
            assert list(await call.trailing_metadata()) == [("z", "1"), ("z-bin", b"\0")]
        [(path, metadata, timeout)] = seen
        assert (path, metadata) == ("/s/m", [("a", "b"), ("c-bin", b"\0\1")])
        assert timeout is not None
        assert 8 < timeout < 10

    _run(main)


def test_the_end_of_a_call_or_of_its_connection_cancels_who_serves_it() -> None:
    async def main() -> None:
        begun, cancelled = asyncio.Queue[None](), asyncio.Queue[None]()

        async def serve(call: ServerCall) -> None:
            try:
                begun.put_nowait(None)
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.put_nowait(None)
                raise

        async with listening(serve) as path:
            async with raw_client(path) as client:
                client.send(client.request(1), client.request(3))
                await begun.get()
                await begun.get()
                client.send(reset(1))
                await cancelled.get()
                assert cancelled.empty()
            await cancelled.get()

    _run(main)


def test_a_call_whose_server_goes_away_is_unavailable() -> None:
    async def serve(call: ServerCall) -> None:
        # As a call of grpcio whose channel is closed.
        raise asyncio.CancelledError

    async def main() -> None:
        async with client_of(serve) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/s/m")(b"")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    _run(main)


def test_output_that_nobody_reads_stops_who_serves() -> None:
    async def main() -> None:
        sent = 0

        async def serve(call: ServerCall) -> None:
            nonlocal sent
            while True:
                await call.send(bytes(16 << 10))
                sent += 1

        async with listening(serve) as path, raw_client(path) as client:
            client.send(client.request(1, end=True))
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert sent < 30

    _run(main)


# -- hostile clients --------------------------------------------------------------------------------------------------


async def _never_read(call: ServerCall) -> None:
    await asyncio.sleep(60)


def test_half_messages_on_many_streams_end_the_connection_that_sends_them() -> None:
    async def main() -> None:
        budget = ByteBudget(unreserved=4 << 20)
        async with listening(_never_read, budget) as path, raw_client(path) as honest, raw_client(path) as greedy:
            honest.send(honest.request(1), data(1, bytes(60_000)))
            for number in range(1, 2 * 100, 2):
                greedy.send(greedy.request(number), data(number, bytes(60_000)))
            with contextlib.suppress(ConnectionResetError):
                await greedy.ended()
            honest.send(frame(PING, 0, 0, b"12345678"))
            received = b""
            while b"12345678" not in received:
                received += await honest.reader.read(1000)
            assert budget.unreserved == 60_000

    _run(main)


def test_a_stream_that_holds_a_reservation_and_does_not_move_is_reset_if_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("appliance.buildkit.server_call._STALL_SECONDS", 0.05)
    monkeypatch.setattr("appliance.buildkit.grpc_connection._STALL_CHECK_SECONDS", 0.02)

    async def main() -> None:
        budget = ByteBudget(reserved=1 << 20)
        async with listening(_echo, budget) as path, raw_client(path) as stuck:
            stuck.send(stuck.request(1), data(1, b"\0" + (1_000_000).to_bytes(4, "big") + bytes(50_000)))
            await asyncio.sleep(0.02)
            assert budget.incoming.room < 1 << 20
            channel = grpc.aio.insecure_channel(f"unix:{path}")
            message = bytes(1_000_000)
            assert await channel.unary_unary("/s/m")(message) == message
            await channel.close()
            assert budget.incoming.room == budget.outgoing.room == 1 << 20

    _run(main)


@pytest.mark.parametrize("sent", [b"", PREFACE + frame(SETTINGS, 0, 0)])
def test_a_connection_without_a_call_ends_after_a_while(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("appliance.buildkit.grpc_connection._STALL_CHECK_SECONDS", 0.01)
    monkeypatch.setattr("appliance.buildkit.grpc_connection._IDLE_SECONDS", 0.05)

    async def main() -> None:
        async with listening(_never_read) as path:
            async with raw_client(path) as busy:
                busy.send(busy.request(1))
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(sent)
                async with asyncio.timeout(5):
                    await reader.read()
                writer.close()
                busy.send(frame(PING, 0, 0, b"12345678"))
                received = b""
                while b"12345678" not in received:
                    piece = await busy.reader.read(1000)
                    assert piece
                    received += piece

    _run(main)


def _floods() -> dict[str, Callable[[], bytes]]:
    from tests.appliance.buildkit.wire import RawClient

    class _Nowhere:
        def write(self, data: bytes) -> None:
            pass

    def requests(each: Callable[[RawClient, int], bytes]) -> bytes:
        client = RawClient(None, _Nowhere())  # type: ignore[arg-type]
        return b"".join(each(client, number) for number in range(1, 1_601, 2))

    return {
        "opened and reset": lambda: requests(lambda client, number: client.request(number) + reset(number)),
        "opened": lambda: requests(lambda client, number: client.request(number)),
        "opened with data, and reset": lambda: requests(
            lambda client, number: client.request(number) + frame(DATA, 0, number, b"half") + reset(number)
        ),
        "not gRPC": lambda: requests(lambda client, number: client.request(number, extra=[("content-length", "x")])),
        "pings": lambda: frame(PING, 0, 0, bytes(8)) * 4_000,
        "empty data": lambda: (
            requests(lambda client, number: client.request(1) if number == 1 else b"") + frame(DATA, 0, 1) * 4_000
        ),
        "padding": lambda: (
            requests(lambda client, number: client.request(1) if number == 1 else b"")
            + frame(DATA, PADDED, 1, b"\xff" + bytes(255)) * 1_000
        ),
        "empty messages": lambda: (
            requests(lambda client, number: client.request(1) if number == 1 else b"")
            + frame(DATA, 0, 1, bytes(16380)) * 3
        ),
    }


@pytest.mark.parametrize("kind", _floods())
@pytest.mark.parametrize("serve", [_echo, _never_read])
def test_floods_take_small_steps_and_leave_nothing(kind: str, serve: Callable[[ServerCall], Awaitable[None]]) -> None:
    flood = _floods()[kind]()

    async def main() -> None:
        budget = ByteBudget()
        async with listening(serve, budget) as path:
            with cpu_of_callbacks() as steps:
                async with raw_client(path) as client:
                    reading = asyncio.create_task(client.reader.read())
                    try:
                        for start in range(0, len(flood), 1 << 20):
                            client.send(flood[start : start + (1 << 20)])
                            async with asyncio.timeout(20):
                                await client.writer.drain()
                        await asyncio.sleep(0.01)
                    except OSError:
                        pass
                    finally:
                        reading.cancel()
                        await asyncio.wait([reading])
                await asyncio.sleep(0.01)
            assert steps.longest < 0.05, steps
            assert len([task for task in asyncio.all_tasks() if "ServerCall" in repr(task)]) <= 2 * MAX_STREAMS
        _check_all_is_given_back(budget)

    _run(main)


def test_no_more_long_messages_arrive_than_the_budget_has_room_for() -> None:
    async def main() -> None:
        arrived = asyncio.Queue[None]()

        async def keep(call: ServerCall) -> None:
            message = await call.receive()
            arrived.put_nowait(None)
            await asyncio.sleep(60)
            assert message is not None

        budget = ByteBudget(reserved=2 << 20)
        async with client_of(keep, budget) as channel:
            message = bytes((1 << 20) - 5)
            calls = [channel.unary_unary("/s/m")(message) for _ in range(8)]
            await arrived.get()
            await arrived.get()
            await asyncio.sleep(0.1)
            assert arrived.empty()
            assert budget.unreserved < 8 * STREAM_WINDOW
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        assert budget.incoming.room == 2 << 20

    _run(main)


def test_what_is_not_http2_is_answered_by_goaway() -> None:
    async def main() -> None:
        async with listening(_echo) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            async with asyncio.timeout(5):
                received = await reader.read()
            assert frame(GOAWAY, 0, 0)[3:4] in received
            writer.close()

    _run(main)
