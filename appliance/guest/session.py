"""Typed calls into one guest, with errors by meaning."""

import logging
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar

import trio
from google.protobuf.message import Message

from appliance.errors import Conflict, InvalidParameter, NotFound, Unavailable, VchError
from protos.tether.v1 import metrics_pb2, network_pb2, process_pb2, sandbox_pb2, stdio_pb2
from tether.launch import oci
from tether.rpc.bridge import LoopThread
from tether.rpc.client import Channel, ServerStream
from tether.rpc.status import Code, RpcError
from tether.transport import FastPath, Line

Out = TypeVar("Out", bound=Message)
PROTOCOL = 1
_TIMEOUT = 30.0
# Until DHCP servers have answered.
_LEASE_TIMEOUT = 90.0
_PAUSE, _MOST_PAUSE = 0.05, 5.0

log = logging.getLogger(__name__)


class GuestFailure(Unavailable):
    """The guest did not do what it was asked; `code` is gRPC's."""

    def __init__(self, text: str, code: Code) -> None:
        super().__init__(text)
        self.code = code


class StartRefused(VchError):
    """A process could not be started; `failure` says why."""

    def __init__(self, failure: process_pb2.StartFailure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


class Launched:
    """A process that was started, and its output."""

    def __init__(
        self, batch: list[sandbox_pb2.LaunchResponse], stream: ServerStream[sandbox_pb2.LaunchResponse]
    ) -> None:
        self.response = batch[0]
        self._first = batch[1:]
        self._stream = stream

    async def output(self) -> AsyncGenerator[stdio_pb2.Records, None]:
        """From its first byte on, the last with how it ended. RpcError when the call breaks before that."""
        batch = self._first or await self._stream.receive()
        while batch:
            for response in batch:
                yield response.output
            batch = await self._stream.receive()


def exit_code(status: process_pb2.ExitStatus) -> int:
    """As a shell counts: 128 and the signal for what a signal ended."""
    return 128 + status.signal if status.signal else status.code


def _translate(error: RpcError) -> VchError:
    if error.code is Code.NOT_FOUND:
        return NotFound(error.message)
    if error.code is Code.FAILED_PRECONDITION:
        return Conflict(error.message)
    if error.code is Code.INVALID_ARGUMENT:
        return InvalidParameter(error.message)
    return GuestFailure(f"guest: {error}", error.code)


class GuestSession:
    """One guest. `run` must be running; it returns when the line goes, or after `close`."""

    def __init__(self, loop: LoopThread, line: Line) -> None:
        self._channel = Channel(loop, line)
        self._scope = trio.CancelScope()
        self.began = False
        # Processes whose `launch` is under way: somebody reads their output.
        self.launching: set[str] = set()

    async def run(self) -> None:
        self.began = True
        with self._scope:
            await self._channel.run()

    def close(self) -> None:
        """Leave the guest alone: calls under way fail. Idempotent."""
        self._scope.cancel()

    @property
    def closed(self) -> bool:
        """The line is gone, and with it the machine or its hypervisor."""
        return self._channel.closed

    @property
    def sessions(self) -> int:
        """How many sessions the link has had: more than one says that it was reset."""
        return self._channel.sessions

    def attach(self, line: Line) -> FastPath | None:
        """Go on over a quicker line, as long as it lasts. None, and it is closed, when there is nothing to go on with."""
        return self._channel.attach(line)

    def reset_link(self) -> None:
        """Begin a new session of the link; calls that may be said again go on in it."""
        self._channel.reset_link()

    def broke(self, error: BaseException) -> bool:
        """Whether the link was reset under a call (or calls, of a group), so that it is worth making again."""
        if isinstance(error, BaseExceptionGroup):
            return any(self.broke(one) for one in error.exceptions)
        return (
            isinstance(error, RpcError)
            and error.code in (Code.UNAVAILABLE, Code.CANCELLED)
            and not self._channel.closed
        )

    async def call(self, method: str, request: Message, response: type[Out], timeout: float | None = _TIMEOUT) -> Out:
        """A call that the guest may get twice: a reset of the link loses calls under way, which are made again.

        Conflict and NotFound as the guest says them, GuestFailure for the rest.
        """
        try:
            return await self._repeat(method, request, response, timeout)
        except RpcError as error:
            raise _translate(error) from error

    async def _repeat(self, method: str, request: Message, response: type[Out], timeout: float | None) -> Out:
        """A call that the guest may get twice. A reset of the link loses calls under way: those are made again."""
        deadline = trio.current_time() + (timeout if timeout is not None else math.inf)
        while True:
            try:
                return await self._channel.unary(f"/tether.v1.{method}", request, response, timeout=timeout)
            except RpcError as error:
                if not self.broke(error) or trio.current_time() >= deadline:
                    raise
                log.info("guest: %s is said again: %s", method, error.message)
            await trio.sleep(_PAUSE)
            if timeout is not None:
                timeout = max(0.0, deadline - trio.current_time())

    async def hello(self, timeout: float) -> sandbox_pb2.HelloResponse:
        """Wait until the tether answers. GuestFailure after `timeout` seconds, or when it speaks another protocol."""
        request = sandbox_pb2.HelloRequest(protocol=PROTOCOL, appliance="vchd")
        hello = await self.call("Sandbox/Hello", request, sandbox_pb2.HelloResponse, timeout)
        if hello.protocol != PROTOCOL:
            raise GuestFailure(
                f"the guest speaks protocol {hello.protocol}, this appliance {PROTOCOL}", Code.FAILED_PRECONDITION
            )
        return hello

    @asynccontextmanager
    async def launch(
        self, configure: sandbox_pb2.ConfigureRequest | None, process: process_pb2.CreateRequest, timeout: float
    ) -> AsyncIterator["Launched"]:
        """Turn a blank guest into a container and start its process; without `configure` start one that joins another.

        StartRefused says why it did not start.
        """
        if configure is not None:
            configure.wall_clock_ns = time.time_ns()
            configure.entropy = os.urandom(64)
        request = sandbox_pb2.LaunchRequest(protocol=PROTOCOL, configure=configure, process=process)
        self.launching.add(process.id)
        try:
            async with self._launch(request, timeout) as launched:
                yield launched
        finally:
            self.launching.discard(process.id)

    @asynccontextmanager
    async def _launch(self, request: sandbox_pb2.LaunchRequest, timeout: float) -> AsyncIterator["Launched"]:
        deadline = trio.current_time() + timeout
        while True:
            async with AsyncExitStack() as stack:
                try:
                    stream = await stack.enter_async_context(
                        self._channel.stream("/tether.v1.Sandbox/Launch", request, sandbox_pb2.LaunchResponse)
                    )
                    with trio.fail_at(deadline):
                        batch = await stream.receive()
                    if not batch:
                        raise GuestFailure("guest: a launch without an answer", Code.INTERNAL)
                except trio.TooSlowError:
                    raise GuestFailure(f"guest: not ready within {timeout:.0f} s", Code.DEADLINE_EXCEEDED) from None
                except RpcError as error:
                    failure = error.detail(process_pb2.StartFailure)
                    if failure is not None:
                        raise StartRefused(failure, error.message) from error
                    if not self.broke(error) or trio.current_time() >= deadline:
                        raise _translate(error) from error
                    log.info("guest: a launch is said again: %s", error.message)
                else:
                    yield Launched(batch, stream)
                    return
            await trio.sleep(_PAUSE)

    @asynccontextmanager
    async def stream(
        self, method: str, request: Message | None, response: type[Out]
    ) -> AsyncIterator[ServerStream[Out]]:
        """A call that streams, made once. Errors as those of `call`."""
        try:
            async with self._channel.stream(f"/tether.v1.{method}", request, response) as stream:
                yield stream
        except RpcError as error:
            raise _translate(error) from error

    async def watch(
        self, method: str, request: Message, response: type[Out], take: Callable[[Out], Awaitable[None]]
    ) -> None:
        """Hand on what a call tells about the guest's state, the newest of it, until the session is closed.

        It is made again when the link was reset; and in vain, ever less often, where a tether is older than the call.
        """
        pause = _PAUSE
        while not self.closed:
            try:
                async with self.stream(method, request, response) as stream:
                    while batch := await stream.receive():
                        pause = _PAUSE
                        await take(batch[-1])
            except VchError as error:
                log.debug("%s: %s", method, error)
            await trio.sleep(pause)
            pause = min(_MOST_PAUSE, pause * 2)

    async def configure(self, request: sandbox_pb2.ConfigureRequest, timeout: float) -> None:
        """Give a blank guest its disks and name, without a process."""
        request.wall_clock_ns = time.time_ns()
        request.entropy = os.urandom(64)
        await self.call("Sandbox/Configure", request, sandbox_pb2.ConfigureResponse, timeout)

    async def reset(self) -> None:
        """Make a guest blank again that has no processes."""
        await self.call("Sandbox/Reset", sandbox_pb2.ResetRequest(), sandbox_pb2.ResetResponse)

    async def awaken(self, request: sandbox_pb2.AwakenRequest, timeout: float) -> int:
        """Let a guest that was saved find its way in the present; how many connections were ended."""
        request.wall_clock_ns = time.time_ns()
        request.entropy = os.urandom(64)
        return (await self.call("Sandbox/Awaken", request, sandbox_pb2.AwakenResponse, timeout)).closed

    async def write_files(self, request: sandbox_pb2.AwakenRequest) -> None:
        """Write the files of a request anew that has nothing else."""
        await self.call("Sandbox/Awaken", request, sandbox_pb2.AwakenResponse)

    async def apply_network(self, config: network_pb2.NetworkConfig) -> None:
        """Let the guest's NICs be as said. Conflict when the kernel refuses, NotFound when a NIC does not appear."""
        request = network_pb2.ApplyRequest(config=config)
        waits = any(interface.dhcp for interface in config.interfaces)
        await self.call("Network/Apply", request, network_pb2.ApplyResponse, _LEASE_TIMEOUT if waits else _TIMEOUT)

    async def leases(self) -> network_pb2.Leases:
        """What DHCP has given the guest so far."""
        async with self.stream("Network/WatchLeases", network_pb2.WatchLeasesRequest(), network_pb2.Leases) as stream:
            with trio.move_on_after(_TIMEOUT):
                if batch := await stream.receive():
                    return batch[-1]
        raise GuestFailure("guest: it does not say what DHCP gave", Code.DEADLINE_EXCEEDED)

    async def delete_process(self, process_id: str) -> None:
        await self.call("Process/Delete", process_pb2.DeleteRequest(id=process_id), process_pb2.DeleteResponse)

    async def wait_process(self, process_id: str) -> process_pb2.ExitStatus:
        request = process_pb2.WaitRequest(id=process_id)
        return (await self.call("Process/Wait", request, process_pb2.WaitResponse, None)).status

    async def signal(self, process_id: str, number: int) -> None:
        """Not said again when the link is reset: a process may count its signals."""
        request = process_pb2.SignalRequest(id=process_id, signal=number)
        try:
            await self._channel.unary(
                "/tether.v1.Process/Signal", request, process_pb2.SignalResponse, timeout=_TIMEOUT
            )
        except RpcError as error:
            raise _translate(error) from error

    async def pause(self, process_id: str) -> None:
        """Stop all processes of a container; returns when they stand still."""
        await self.call("Process/Pause", process_pb2.PauseRequest(id=process_id), process_pb2.PauseResponse)

    async def unpause(self, process_id: str) -> None:
        await self.call("Process/Resume", process_pb2.ResumeRequest(id=process_id), process_pb2.ResumeResponse)

    async def update(self, process_id: str, resources: oci.Resources) -> None:
        """Change limits. Absent members stay as they are."""
        request = process_pb2.UpdateRequest(id=process_id, resources=oci.encode(resources))
        await self.call("Process/Update", request, process_pb2.UpdateResponse)

    async def top(self, process_id: str, arguments: list[str]) -> process_pb2.TopResponse:
        """What ps says. InvalidParameter with its words when it does not like the arguments."""
        request = process_pb2.TopRequest(id=process_id, arguments=arguments)
        return await self.call("Process/Top", request, process_pb2.TopResponse)

    async def sample(self, process_id: str) -> metrics_pb2.Sample:
        """Figures of the container's cgroup and of the guest."""
        return await self.call("Metrics/Get", metrics_pb2.GetMetricsRequest(id=process_id), metrics_pb2.Sample)

    async def resize(self, process_id: str, rows: int, columns: int) -> None:
        request = process_pb2.ResizePtyRequest(id=process_id, rows=rows, columns=columns)
        await self.call("Process/ResizePty", request, process_pb2.ResizePtyResponse)

    async def processes(self) -> dict[str, process_pb2.ProcessState]:
        listed = await self.call("Process/List", process_pb2.ListRequest(), process_pb2.ListResponse)
        return {state.id: state for state in listed.processes}

    async def acknowledge(self, process_id: str, offset: int) -> None:
        await self.call("Log/Ack", stdio_pb2.AckRequest(id=process_id, offset=offset), stdio_pb2.AckResponse)

    async def follow(
        self, process_id: str, offset: int, output: AsyncGenerator[stdio_pb2.Records, None] | None = None
    ) -> AsyncGenerator[stdio_pb2.Records, None]:
        """Output from `offset` on, through resets of the link, the last with how it ended; first what `output` gives.

        VchError when the guest does not tell, or is gone.
        """
        while True:
            try:
                async with aclosing(output or self.read_log(process_id, offset)) as stream:
                    async for records in stream:
                        if records.records:
                            last = records.records[-1]
                            offset = last.offset + len(last.data)
                        yield records
                        if records.HasField("exit"):
                            return
                yield stdio_pb2.Records(exit=await self.wait_process(process_id))
                return
            except RpcError as error:
                if not self.broke(error):
                    raise VchError(f"reading output: {error}") from error
                # The spool still has what was not acknowledged.
                output = None
                await trio.sleep(_PAUSE)

    async def read_log(self, process_id: str, offset: int) -> AsyncGenerator[stdio_pb2.Records, None]:
        """Output from `offset` on, the last with how it ended. RpcError when the call breaks before that."""
        request = stdio_pb2.ReadRequest(id=process_id, offset=offset, follow=True)
        async with self._channel.stream("/tether.v1.Log/Read", request, stdio_pb2.Records) as stream:
            while batch := await stream.receive():
                for records in batch:
                    yield records

    @asynccontextmanager
    async def feed_stdin(self) -> AsyncIterator[ServerStream[stdio_pb2.AttachResponse]]:
        async with self._channel.stream("/tether.v1.Stdio/Attach", None, stdio_pb2.AttachResponse) as stream:
            yield stream

    async def shut_down(self) -> None:
        """End all processes and make the disks clean; then the power may go. Returns also when the guest does not answer."""
        request = sandbox_pb2.ShutdownRequest()
        try:
            with trio.move_on_after(5):
                await self._channel.unary(
                    "/tether.v1.Sandbox/Shutdown", request, sandbox_pb2.ShutdownResponse, timeout=5
                )
        except RpcError:
            pass
