"""Calls to the tether of one guest: plain values in and out, errors of `errors.py`."""

import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar

import trio
from google.protobuf.message import Message

from appliance.errors import VchError
from appliance.guest.decode import (
    decode_exit,
    decode_failure,
    decode_leases,
    decode_listeners,
    decode_metrics,
    decode_outputs,
    decode_process,
    decode_table,
)
from appliance.guest.encode import (
    encode_addition,
    encode_network,
    encode_process,
    encode_resumption,
    encode_setup,
    renew_clock,
)
from appliance.guest.failures import GuestFailure, StartRefused, translate
from appliance.guest.launched import Launched
from appliance.guest.reports import (
    ExitStatus,
    Lease,
    Listener,
    Metrics,
    Output,
    ProcessState,
    ProcessTable,
)
from appliance.guest.setup import GuestAddition, GuestSetup, NetworkConfig, ProcessSetup, Resumption, StateFile
from protos.tether.v1 import metrics_pb2, network_pb2, process_pb2, sandbox_pb2, stdio_pb2
from tether.launch import oci
from tether.rpc.bridge import LoopThread
from tether.rpc.client import MAX_MESSAGE, Channel, ServerStream
from tether.rpc.status import Code, RpcError
from tether.transport import FastPath, Line

Out = TypeVar("Out", bound=Message)
PROTOCOL = 1
_TIMEOUT = 30.0
# Time for all DHCP servers to answer.
_LEASE_TIMEOUT = 90.0
_PAUSE, _MOST_PAUSE = 0.05, 5.0
# All leases, or all ports that a guest listens at.
_WATCHED_BYTES = 256 << 10

log = logging.getLogger(__name__)


def exit_code(status: ExitStatus) -> int:
    """The exit code as in a shell: 128 + signal if a signal ended the process."""
    return 128 + status.signal if status.signal else status.code


class GuestSession:
    """One guest. The caller runs `run`, which returns when the connection breaks for good, or after `close`."""

    def __init__(self, loop: LoopThread, line: Line) -> None:
        self._channel = Channel(loop, line)
        self._scope = trio.CancelScope()
        self.began = False
        # Ids of processes whose `launch` block runs, so that their output has a reader.
        self.launching: set[str] = set()

    async def run(self) -> None:
        self.began = True
        with self._scope:
            await self._channel.run()

    def close(self) -> None:
        """End the session: calls under way fail. Idempotent."""
        self._scope.cancel()

    @property
    def closed(self) -> bool:
        """The connection is gone: the machine or its hypervisor has ended."""
        return self._channel.closed

    @property
    def fault(self) -> str:
        """Why vchd has hung up the guest, which then cannot be reached any more; "" when it has not."""
        return self._channel.fault

    @property
    def sessions(self) -> int:
        """The number of link sessions so far: more than one means that the link was reset."""
        return self._channel.sessions

    def attach(self, line: Line) -> FastPath | None:
        """Use a faster line while it lasts. None, and the line is closed, when the link cannot move to it."""
        return self._channel.attach(line)

    def reset_link(self) -> None:
        """Begin a new session of the link; repeatable calls are repeated in it."""
        self._channel.reset_link()

    def broke(self, error: BaseException) -> bool:
        """Whether a call (or calls, for a group) failed because the link was reset, so that a repetition helps."""
        if isinstance(error, BaseExceptionGroup):
            return any(self.broke(one) for one in error.exceptions)
        return (
            isinstance(error, RpcError)
            and error.code in (Code.UNAVAILABLE, Code.CANCELLED)
            and not self._channel.closed
        )

    async def call(self, method: str, request: Message, response: type[Out], timeout: float | None = _TIMEOUT) -> Out:
        """Make an idempotent call; a call that is lost in a reset of the link is repeated.

        Conflict, NotFound and InvalidParameter as the guest reports them, GuestFailure for the rest.
        """
        try:
            return await self._repeat(method, request, response, timeout)
        except RpcError as error:
            raise translate(error) from error

    async def _repeat(self, method: str, request: Message, response: type[Out], timeout: float | None) -> Out:
        """Make an idempotent call until it is answered or time is up. RpcError."""
        deadline = trio.current_time() + (timeout if timeout is not None else math.inf)
        while True:
            try:
                return await self._channel.unary(f"/tether.v1.{method}", request, response, timeout=timeout)
            except RpcError as error:
                if not self.broke(error) or trio.current_time() >= deadline:
                    raise
                log.info("guest: repeating %s: %s", method, error.message)
            await trio.sleep(_PAUSE)
            if timeout is not None:
                timeout = max(0.0, deadline - trio.current_time())

    async def hello(self, timeout: float) -> sandbox_pb2.HelloResponse:
        """Wait until the tether answers. GuestFailure after `timeout` seconds, or when it speaks another protocol."""
        request = sandbox_pb2.HelloRequest(protocol=PROTOCOL, appliance="vchd")
        hello = await self.call("Sandbox/Hello", request, sandbox_pb2.HelloResponse, timeout)
        if hello.protocol != PROTOCOL:
            raise GuestFailure(
                f"the guest has protocol version {hello.protocol}, this daemon {PROTOCOL}", Code.FAILED_PRECONDITION
            )
        return hello

    @asynccontextmanager
    async def launch(
        self, setup: GuestSetup | GuestAddition | None, process: ProcessSetup, timeout: float
    ) -> AsyncIterator[Launched]:
        """Turn a blank guest into a container, or add one, and start its process; without `setup` start one that joins another.

        StartRefused says why it did not start.
        """
        # Encoded once: the guest accepts a repeated request only if it is identical.
        request = sandbox_pb2.LaunchRequest(
            protocol=PROTOCOL,
            configure=encode_setup(setup) if isinstance(setup, GuestSetup) else None,
            add=encode_addition(setup) if isinstance(setup, GuestAddition) else None,
            process=encode_process(process),
        )
        self.launching.add(process.id)
        try:
            async with self._launch(request, timeout) as launched:
                yield launched
        finally:
            self.launching.discard(process.id)

    @asynccontextmanager
    async def _launch(self, request: sandbox_pb2.LaunchRequest, timeout: float) -> AsyncIterator[Launched]:
        deadline = trio.current_time() + timeout
        while True:
            async with AsyncExitStack() as stack:
                try:
                    # The deadline includes the wait for a guest that has not answered yet.
                    with trio.fail_at(deadline):
                        stream = await stack.enter_async_context(
                            self._channel.stream("/tether.v1.Sandbox/Launch", request, sandbox_pb2.LaunchResponse)
                        )
                        batch = await stream.receive()
                    if not batch:
                        raise GuestFailure("guest: the launch ended without an answer", Code.INTERNAL)
                except trio.TooSlowError:
                    raise GuestFailure(f"guest: not ready within {timeout:.0f} s", Code.DEADLINE_EXCEEDED) from None
                except RpcError as error:
                    failure = error.detail(process_pb2.StartFailure)
                    if failure is not None:
                        raise StartRefused(decode_failure(failure), error.message) from error
                    if not self.broke(error) or trio.current_time() >= deadline:
                        raise translate(error) from error
                    log.info("guest: repeating the launch: %s", error.message)
                else:
                    yield Launched(batch, stream)
                    return
            await trio.sleep(_PAUSE)

    @asynccontextmanager
    async def stream(
        self, method: str, request: Message | None, response: type[Out], *, most: int = MAX_MESSAGE
    ) -> AsyncIterator[ServerStream[Out]]:
        """A streaming call, not repeated. Errors as those of `call`. A response has at most `most` bytes."""
        try:
            async with self._channel.stream(f"/tether.v1.{method}", request, response, most=most) as stream:
                yield stream
        except RpcError as error:
            raise translate(error) from error

    async def _watch(
        self, method: str, request: Message, response: type[Out], take: Callable[[Out], Awaitable[None]]
    ) -> None:
        """Call `take` with the newest response of a streaming call, until the session is closed.

        The call is repeated when it breaks. A tether that does not know the call gets it ever more rarely.
        """
        pause = _PAUSE
        while not self.closed:
            try:
                async with self.stream(method, request, response, most=_WATCHED_BYTES) as stream:
                    while batch := await stream.receive():
                        pause = _PAUSE
                        await take(batch[-1])
            except VchError as error:
                log.debug("%s: %s", method, error)
            await trio.sleep(pause)
            pause = min(_MOST_PAUSE, pause * 2)

    async def configure(self, setup: GuestSetup, timeout: float) -> None:
        """Give a blank guest its disks and name, without a process."""
        await self.call("Sandbox/Configure", encode_setup(setup), sandbox_pb2.ConfigureResponse, timeout)

    async def reset(self) -> None:
        """Make a guest without processes blank again."""
        await self.call("Sandbox/Reset", sandbox_pb2.ResetRequest(), sandbox_pb2.ResetResponse)

    async def awaken(self, timeout: float, resumption: Resumption | None = None) -> int:
        """Set the clock of a resumed guest, and apply `resumption`; return how many connections the guest has closed."""
        request = encode_resumption(resumption or Resumption())
        renew_clock(request)
        return (await self.call("Sandbox/Awaken", request, sandbox_pb2.AwakenResponse, timeout)).closed

    async def write_files(self, files: Sequence[StateFile], container: str = "") -> None:
        """Replace files that processes see. `container`: see Resumption."""
        request = encode_resumption(Resumption(files=files, container=container))
        await self.call("Sandbox/Awaken", request, sandbox_pb2.AwakenResponse)

    async def apply_network(self, config: NetworkConfig, container: str = "") -> None:
        """Configure the guest's NICs. Conflict when the kernel refuses, NotFound when a NIC does not appear.

        `container`: the container in whose network namespace the NICs are; "" for the guest's own, which the first container has.
        """
        request = network_pb2.ApplyRequest(config=encode_network(config), id=container)
        waits = any(interface.dhcp for interface in config.interfaces)
        await self.call("Network/Apply", request, network_pb2.ApplyResponse, _LEASE_TIMEOUT if waits else _TIMEOUT)

    async def leases(self, container: str = "") -> list[Lease]:
        """The DHCP leases of the guest so far. `container`: see `apply_network`."""
        request, response = network_pb2.WatchLeasesRequest(id=container), network_pb2.Leases
        async with self.stream("Network/WatchLeases", request, response, most=_WATCHED_BYTES) as stream:
            with trio.move_on_after(_TIMEOUT):
                if batch := await stream.receive():
                    return decode_leases(batch[-1])
        raise GuestFailure("guest: no report of its DHCP leases", Code.DEADLINE_EXCEEDED)

    async def watch_leases(self, take: Callable[[list[Lease]], Awaitable[None]], container: str = "") -> None:
        """Call `take` with all DHCP leases, now and after each change, until the session is closed. `container`: see `apply_network`."""
        request = network_pb2.WatchLeasesRequest(id=container)

        async def decoded(leases: network_pb2.Leases) -> None:
            await take(decode_leases(leases))

        await self._watch("Network/WatchLeases", request, network_pb2.Leases, decoded)

    async def watch_listeners(self, take: Callable[[list[Listener]], Awaitable[None]], container: str = "") -> None:
        """Call `take` with all ports at which programs listen, now and after each change, until the session is closed.

        `container`: see `apply_network`.
        """
        request = network_pb2.WatchListenersRequest(id=container)

        async def decoded(listeners: network_pb2.Listeners) -> None:
            await take(decode_listeners(listeners))

        await self._watch("Network/WatchListeners", request, network_pb2.Listeners, decoded)

    async def delete_process(self, process_id: str) -> None:
        await self.call("Process/Delete", process_pb2.DeleteRequest(id=process_id), process_pb2.DeleteResponse)

    async def wait_process(self, process_id: str) -> ExitStatus:
        request = process_pb2.WaitRequest(id=process_id)
        return decode_exit((await self.call("Process/Wait", request, process_pb2.WaitResponse, None)).status)

    async def signal(self, process_id: str, number: int) -> None:
        """Send a signal; never repeated, since a process may count its signals. Conflict when the process does not run."""
        request = process_pb2.SignalRequest(id=process_id, signal=number)
        try:
            await self._channel.unary(
                "/tether.v1.Process/Signal", request, process_pb2.SignalResponse, timeout=_TIMEOUT
            )
        except RpcError as error:
            raise translate(error) from error

    async def pause(self, process_id: str) -> None:
        """Freeze all processes of a container; returns when they are frozen."""
        await self.call("Process/Pause", process_pb2.PauseRequest(id=process_id), process_pb2.PauseResponse)

    async def unpause(self, process_id: str) -> None:
        await self.call("Process/Resume", process_pb2.ResumeRequest(id=process_id), process_pb2.ResumeResponse)

    async def update(self, process_id: str, resources: oci.Resources) -> None:
        """Change limits. Absent members stay as they are."""
        request = process_pb2.UpdateRequest(id=process_id, resources=oci.encode(resources))
        await self.call("Process/Update", request, process_pb2.UpdateResponse)

    async def top(self, process_id: str, arguments: list[str]) -> ProcessTable:
        """The output of ps. InvalidParameter with the message of ps for bad arguments."""
        request = process_pb2.TopRequest(id=process_id, arguments=arguments)
        return decode_table(await self.call("Process/Top", request, process_pb2.TopResponse))

    async def sample(self, process_id: str) -> Metrics:
        """Metrics of the container's cgroup and of the guest."""
        request = metrics_pb2.GetMetricsRequest(id=process_id)
        return decode_metrics(await self.call("Metrics/Get", request, metrics_pb2.Sample))

    async def resize(self, process_id: str, rows: int, columns: int) -> None:
        request = process_pb2.ResizePtyRequest(id=process_id, rows=rows, columns=columns)
        await self.call("Process/ResizePty", request, process_pb2.ResizePtyResponse)

    async def processes(self) -> dict[str, ProcessState]:
        listed = await self.call("Process/List", process_pb2.ListRequest(), process_pb2.ListResponse)
        return {state.id: decode_process(state) for state in listed.processes}

    async def acknowledge(self, process_id: str, offset: int) -> None:
        await self.call("Log/Ack", stdio_pb2.AckRequest(id=process_id, offset=offset), stdio_pb2.AckResponse)

    async def follow(
        self, process_id: str, offset: int, output: AsyncGenerator[Output, None] | None = None
    ) -> AsyncGenerator[Output, None]:
        """Output from `offset` on, across resets of the link; the last batch has the exit status.

        `output` is a stream that is open already and begins at `offset`. VchError when the guest fails or is gone.
        """
        while True:
            try:
                async with aclosing(output or self.read_log(process_id, offset)) as stream:
                    async for batch in stream:
                        if batch.records:
                            offset = batch.records[-1].end
                        yield batch
                        if batch.exit is not None:
                            return
                yield Output([], await self.wait_process(process_id))
                return
            except RpcError as error:
                if not self.broke(error):
                    raise VchError(f"reading output: {error}") from error
                # The guest's spool has all output that is not acknowledged, so reading continues at `offset`.
                output = None
                await trio.sleep(_PAUSE)

    async def read_log(self, process_id: str, offset: int) -> AsyncGenerator[Output, None]:
        """Output from `offset` on; the last batch has the exit status. RpcError when the call breaks before."""
        request = stdio_pb2.ReadRequest(id=process_id, offset=offset, follow=True)
        async with self._channel.stream("/tether.v1.Log/Read", request, stdio_pb2.Records) as stream:
            while batch := await stream.receive():
                for records in batch:
                    for output in decode_outputs(records):
                        yield output
                        await trio.lowlevel.checkpoint()

    @asynccontextmanager
    async def feed_stdin(self) -> AsyncIterator[ServerStream[stdio_pb2.AttachResponse]]:
        async with self._channel.stream("/tether.v1.Stdio/Attach", None, stdio_pb2.AttachResponse) as stream:
            yield stream

    async def shut_down(self) -> None:
        """End all processes and unmount the disks; then the machine can be powered off. Returns also without an answer."""
        request = sandbox_pb2.ShutdownRequest()
        try:
            with trio.move_on_after(5):
                await self._channel.unary(
                    "/tether.v1.Sandbox/Shutdown", request, sandbox_pb2.ShutdownResponse, timeout=5
                )
        except RpcError:
            pass
