"""The Network service of a scripted guest: it records configurations, and reports the listeners that a test sets."""

import trio

from protos.tether.v1 import network_pb2
from tether.rpc.call import Call
from tether.rpc.status import Code, RpcError


class GuestNetwork:
    """`applied` are the configurations so far. A text in `refusal` is the error of the next one."""

    def __init__(self) -> None:
        self.applied: list[network_pb2.NetworkConfig] = []
        self.refusal = ""
        self._listeners: list[tuple[str, int]] = []
        self._news = trio.Event()

    def listen(self, *listeners: tuple[str, int]) -> None:
        """Report these (protocol, port), and no others, from now on."""
        self._listeners = list(listeners)
        news, self._news = self._news, trio.Event()
        news.set()

    def apply(self, request: network_pb2.ApplyRequest) -> network_pb2.ApplyResponse:
        if self.refusal:
            text, self.refusal = self.refusal, ""
            raise RpcError(Code.FAILED_PRECONDITION, text)
        self.applied.append(request.config)
        return network_pb2.ApplyResponse()

    async def watch_listeners(self, _: network_pb2.WatchListenersRequest, call: Call) -> None:
        while True:
            found = [network_pb2.Listener(protocol=protocol, port=port) for protocol, port in self._listeners]
            await call.send(network_pb2.Listeners(listeners=found))
            await self._news.wait()
