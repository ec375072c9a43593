"""Calls to a guest: repeated after a reset when that is safe, bounded in time, with errors by meaning."""

import socket
from contextlib import AbstractAsyncContextManager

import pytest
import trio
import trio.testing
from google.protobuf.message import Message
from trio.testing import MockClock

from appliance.errors import Conflict, InvalidParameter, NotFound, VchError
from appliance.guest import (
    ExitStatus,
    FailureKind,
    GuestFailure,
    GuestSession,
    GuestSetup,
    Lease,
    Listener,
    ProcessSetup,
    StartRefused,
    StateFile,
    exit_code,
)
from appliance.guest.session import PROTOCOL
from protos.tether.v1 import network_pb2, process_pb2, sandbox_pb2, stdio_pb2
from tests.appliance.guest.served import served
from tether.rpc.bridge import LoopThread
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError
from tether.transport import Line


class _Guest:
    """Answers of Sandbox, Process and Network. A request waits while `gate` is not set."""

    def __init__(self) -> None:
        self.requests: list[Message] = []
        self.gate = trio.Event()
        self.gate.set()
        self.came = trio.Event()
        self.failure: RpcError | None = None
        self.protocol = PROTOCOL
        self.launches: list[sandbox_pb2.LaunchResponse] = []
        self.leases = [network_pb2.Leases(leases=[network_pb2.Lease(interface="eth0", address="192.0.2.9/24")])]

    async def _take(self, request: Message) -> None:
        self.requests.append(request)
        self.came.set()
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure

    async def hello(self, request: sandbox_pb2.HelloRequest) -> sandbox_pb2.HelloResponse:
        await self._take(request)
        return sandbox_pb2.HelloResponse(protocol=self.protocol, version="test")

    async def shutdown(self, request: sandbox_pb2.ShutdownRequest) -> sandbox_pb2.ShutdownResponse:
        await self._take(request)
        return sandbox_pb2.ShutdownResponse()

    async def awaken(self, request: sandbox_pb2.AwakenRequest) -> sandbox_pb2.AwakenResponse:
        await self._take(request)
        return sandbox_pb2.AwakenResponse(closed=3)

    async def launch(self, request: sandbox_pb2.LaunchRequest, call: Call) -> None:
        await self._take(request)
        for response in self.launches:
            await call.send(response)

    async def wait(self, request: process_pb2.WaitRequest) -> process_pb2.WaitResponse:
        await self._take(request)
        return process_pb2.WaitResponse(status=process_pb2.ExitStatus(code=7))

    async def signal(self, request: process_pb2.SignalRequest) -> process_pb2.SignalResponse:
        await self._take(request)
        return process_pb2.SignalResponse()

    async def delete(self, request: process_pb2.DeleteRequest) -> process_pb2.DeleteResponse:
        await self._take(request)
        return process_pb2.DeleteResponse()

    async def watch_leases(self, request: network_pb2.WatchLeasesRequest, call: Call) -> None:
        await self._take(request)
        for leases in self.leases:
            await call.send(leases)

    async def watch_listeners(self, request: network_pb2.WatchListenersRequest, call: Call) -> None:
        await self._take(request)
        found = [network_pb2.Listener(protocol="tcp", port=80)]
        await call.send(network_pb2.Listeners(listeners=found))


@pytest.fixture
async def guest() -> _Guest:
    return _Guest()


def _served(guest: _Guest) -> AbstractAsyncContextManager[GuestSession]:
    return served(
        (sandbox_pb2.DESCRIPTOR, "Sandbox", guest),
        (process_pb2.DESCRIPTOR, "Process", guest),
        (network_pb2.DESCRIPTOR, "Network", guest),
    )


PROCESS = ProcessSetup("one", b"{}")
STARTED = sandbox_pb2.LaunchResponse(
    started=process_pb2.StartResponse(pid=9, started_ns=5), steps=[sandbox_pb2.BootMark(name="mounts", boottime_ns=1)]
)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.NOT_FOUND, NotFound),
        (Code.FAILED_PRECONDITION, Conflict),
        (Code.INVALID_ARGUMENT, InvalidParameter),
        (Code.INTERNAL, GuestFailure),
    ],
)
async def test_errors_by_meaning(guest: _Guest, code: Code, kind: type[VchError]) -> None:
    guest.failure = RpcError(code, "no process one")
    async with _served(guest) as session:
        for call in (session.delete_process("one"), session.signal("one", 15)):
            with pytest.raises(kind, match="no process one"):
                await call
    assert len(guest.requests) == 2


async def test_a_call_that_is_lost_in_a_reset_is_repeated(guest: _Guest) -> None:
    guest.gate = trio.Event()
    found: list[ExitStatus] = []
    async with _served(guest) as session, trio.open_nursery() as nursery:

        async def wait() -> None:
            found.append(await session.wait_process("one"))

        nursery.start_soon(wait)
        await guest.came.wait()
        guest.came = trio.Event()
        session.reset_link()
        await guest.came.wait()
        guest.gate.set()
    assert found == [ExitStatus(7)]
    assert guest.requests == [process_pb2.WaitRequest(id="one")] * 2
    assert session.sessions == 2


async def test_a_signal_is_never_repeated(guest: _Guest) -> None:
    guest.gate = trio.Event()
    async with _served(guest) as session, trio.open_nursery() as nursery:

        async def signal() -> None:
            with pytest.raises(GuestFailure) as caught:
                await session.signal("one", 10)
            assert caught.value.code in (Code.UNAVAILABLE, Code.CANCELLED)

        nursery.start_soon(signal)
        await guest.came.wait()
        session.reset_link()
    assert guest.requests == [process_pb2.SignalRequest(id="one", signal=10)]


async def test_a_call_has_a_deadline(guest: _Guest) -> None:
    guest.gate = trio.Event()
    async with _served(guest) as session:
        with pytest.raises(GuestFailure) as caught:
            await session.hello(0.05)
    assert caught.value.code is Code.DEADLINE_EXCEEDED


async def test_a_guest_of_another_protocol(guest: _Guest) -> None:
    guest.protocol = 9
    async with _served(guest) as session:
        with pytest.raises(GuestFailure, match=r"^the guest has protocol version 9, this daemon 1$"):
            await session.hello(10)
        guest.protocol = PROTOCOL
        assert (await session.hello(10)).version == "test"


async def test_a_closed_session_fails_its_calls(guest: _Guest) -> None:
    guest.gate = trio.Event()
    async with _served(guest) as session, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(GuestFailure):
                await session.wait_process("one")

        nursery.start_soon(wait)
        await guest.came.wait()
        session.close()
        session.close()
    assert session.closed
    assert len(guest.requests) == 1


# -- launch -----------------------------------------------------------------------------------------------------------


async def test_a_launch(guest: _Guest) -> None:
    record = stdio_pb2.Record(stream=stdio_pb2.STDOUT, data=b"hi")
    exit_status = process_pb2.ExitStatus(code=3, final_offset=2)
    guest.launches = [
        STARTED,
        sandbox_pb2.LaunchResponse(output=stdio_pb2.Records(records=[record])),
        sandbox_pb2.LaunchResponse(output=stdio_pb2.Records(exit=exit_status)),
    ]
    async with _served(guest) as session:
        async with session.launch(GuestSetup("one"), PROCESS, 10) as launched:
            assert session.launching == {"one"}
            assert (launched.started.pid, launched.started.started_ns) == (9, 5)
            assert [step.name for step in launched.steps] == ["mounts"]
            batches = [batch async for batch in launched.output()]
        assert session.launching == set()
    assert b"".join(one.data for batch in batches for one in batch.records) == b"hi"
    assert batches[-1].exit == ExitStatus(3, final_offset=2)
    (request,) = guest.requests
    assert isinstance(request, sandbox_pb2.LaunchRequest)
    assert (request.configure.machine_id, request.process.id) == ("one", "one")


async def test_a_launch_that_is_lost_is_repeated_unchanged(guest: _Guest) -> None:
    guest.gate, guest.launches = trio.Event(), [STARTED]
    async with _served(guest) as session, trio.open_nursery() as nursery:

        async def launch() -> None:
            async with session.launch(GuestSetup("one"), PROCESS, 10) as launched:
                assert launched.started.pid == 9

        nursery.start_soon(launch)
        await guest.came.wait()
        guest.came = trio.Event()
        session.reset_link()
        await guest.came.wait()
        guest.gate.set()
    first, second = guest.requests
    # The entropy and the clock, too: the guest compares the requests.
    assert first == second


async def test_a_process_that_does_not_start(guest: _Guest) -> None:
    failure = process_pb2.StartFailure(kind=process_pb2.StartFailure.NOT_FOUND, subject="foo", searched_path=True)
    guest.failure = RpcError(Code.FAILED_PRECONDITION, "no foo", failure)
    async with _served(guest) as session:
        with pytest.raises(StartRefused, match=r"^no foo$") as caught:
            async with session.launch(GuestSetup("one"), PROCESS, 10):
                raise AssertionError("it did not start")
        assert caught.value.failure.kind is FailureKind.NOT_FOUND
        assert caught.value.failure.searched_path
        guest.failure = RpcError(Code.FAILED_PRECONDITION, "the disk is gone")
        with pytest.raises(Conflict, match=r"^the disk is gone$"):
            async with session.launch(GuestSetup("one"), PROCESS, 10):
                raise AssertionError("it did not start")
        assert session.launching == set()


async def test_launches_without_an_answer(guest: _Guest) -> None:
    async with _served(guest) as session:
        with pytest.raises(GuestFailure, match=r"^guest: the launch ended without an answer$"):
            async with session.launch(None, PROCESS, 10):
                raise AssertionError("it did not start")
        (request,) = guest.requests
        assert isinstance(request, sandbox_pb2.LaunchRequest)
        assert not request.HasField("configure")
        guest.gate = trio.Event()
        with pytest.raises(GuestFailure, match=r"^guest: not ready within 0 s$"):
            async with session.launch(GuestSetup("one"), PROCESS, 0.02):
                raise AssertionError("it did not start")


async def test_a_guest_that_never_opens_the_link(mock_clock: MockClock) -> None:
    near, far = socket.socketpair()
    with far:
        async with LoopThread.open() as loop, trio.open_nursery() as nursery:
            session = GuestSession(loop, Line(near.detach()))
            nursery.start_soon(session.run)

            async def launch() -> None:
                with pytest.raises(GuestFailure, match=r"^guest: not ready within 5 s$"):
                    async with session.launch(None, PROCESS, 5):
                        raise AssertionError("it did not start")
                nursery.cancel_scope.cancel()

            nursery.start_soon(launch)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(6)
            for _ in range(100):
                await trio.testing.wait_all_tasks_blocked(0.01)
                mock_clock.jump(0.01)
            raise AssertionError("the launch waits for ever")


# -- what a guest reports ---------------------------------------------------------------------------------------------


async def test_leases(guest: _Guest) -> None:
    async with _served(guest) as session:
        assert await session.leases() == [Lease("eth0", "192.0.2.9/24", "", (), ())]
        guest.leases = []
        with pytest.raises(GuestFailure, match=r"^guest: no report of its DHCP leases$"):
            await session.leases()


async def test_a_watch_that_breaks_is_begun_again(guest: _Guest) -> None:
    found: list[list[Listener]] = []
    async with _served(guest) as session, trio.open_nursery() as nursery:

        async def take(listeners: list[Listener]) -> None:
            found.append(listeners)
            if len(found) == 2:
                nursery.cancel_scope.cancel()

        # The guest ends the call after each report.
        nursery.start_soon(session.watch_listeners, take)
    assert found == [[Listener("tcp", 80)]] * 2


async def test_a_watch_ends_with_the_session(guest: _Guest) -> None:
    guest.gate = trio.Event()
    async with _served(guest) as session, trio.open_nursery() as nursery:

        async def take(_: list[Lease]) -> None:
            raise AssertionError("there is no lease")

        nursery.start_soon(session.watch_leases, take)
        await guest.came.wait()
        session.close()


async def test_files_are_written_without_a_change_of_the_clock(guest: _Guest) -> None:
    async with _served(guest) as session:
        await session.write_files([StateFile("hosts", b"h")])
        assert await session.awaken(10) == 3
    files, clock = guest.requests
    assert isinstance(files, sandbox_pb2.AwakenRequest)
    assert isinstance(clock, sandbox_pb2.AwakenRequest)
    assert (files.wall_clock_ns, [file.name for file in files.files]) == (0, ["hosts"])
    assert clock.wall_clock_ns > 0
    assert list(clock.files) == []


async def test_a_shutdown_needs_no_answer(guest: _Guest) -> None:
    guest.failure = RpcError(Code.INTERNAL, "the disk is busy")
    async with _served(guest) as session:
        await session.shut_down()
        session.close()
        await session.shut_down()
    assert len(guest.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(ExitStatus(), 0), (ExitStatus(3), 3), (ExitStatus(0, 9), 137), (ExitStatus(0, 15), 143)]
)
def test_exit_codes(status: ExitStatus, code: int) -> None:
    assert exit_code(status) == code
