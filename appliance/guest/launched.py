"""The answer of a guest that has started a process."""

from collections.abc import AsyncGenerator

import trio

from appliance.guest.decode import decode_outputs, decode_started, decode_step
from appliance.guest.reports import Output
from protos.tether.v1 import sandbox_pb2
from tether.rpc.client import ServerStream


class Launched:
    """A process that was started, the steps of its start, and its output."""

    def __init__(
        self, batch: list[sandbox_pb2.LaunchResponse], stream: ServerStream[sandbox_pb2.LaunchResponse]
    ) -> None:
        self.started = decode_started(batch[0].started)
        self.steps = [decode_step(step) for step in batch[0].steps]
        self._first = batch[1:]
        self._stream = stream

    async def output(self) -> AsyncGenerator[Output, None]:
        """All output; the last batch has the exit status. RpcError when the call breaks before."""
        batch = self._first or await self._stream.receive()
        while batch:
            for response in batch:
                for output in decode_outputs(response.output):
                    yield output
                    await trio.lowlevel.checkpoint()
            batch = await self._stream.receive()
