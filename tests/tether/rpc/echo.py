"""A server with one method of each kind, on a link over a socket pair, and grpcio's client at the other end."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from protos.tether.v1 import stdio_pb2
from protos.tether.v1.stdio_pb2 import AttachRequest, AttachResponse, Record
from tether.rpc.bridge import LoopThread
from tether.rpc.call import Call, Method
from tether.rpc.client import Channel
from tether.rpc.listener import serve_link
from tether.rpc.status import Code, RpcError
from tether.transport import Line, LineClosed


class Echo:
    """Handlers; the messages are borrowed from stdio.proto."""

    def __init__(self) -> None:
        self.cancelled = trio.Event()
        self.sent = 0
        self.received = 0

    def unary(self, request: Record) -> Record:
        if request.data == b"fail":
            raise RpcError(Code.NOT_FOUND, "nothing: 100 %\nnewline é", AttachRequest(id="detail"))
        if request.data == b"long":
            raise RpcError(Code.NOT_FOUND, "é" * request.offset, AttachRequest(id="x" * request.offset))
        if request.data == b"bug":
            raise ValueError("a bug")
        return request

    async def sleep(self, request: Record) -> Record:
        try:
            await trio.sleep(request.offset)
        except trio.Cancelled:
            self.cancelled.set()
            raise
        return request

    async def download(self, request: Record, call: Call) -> None:
        for number in range(request.offset):
            await call.send(Record(offset=number, data=request.data))
            self.sent += 1

    async def both(self, call: Call) -> None:
        async for request in call:
            self.received += len(request.data)
            await call.send(AttachResponse(written=len(request.data)))

    async def sink(self, call: Call) -> None:
        """Takes one message and then no more."""
        await call.receive()
        await trio.sleep_forever()

    def methods(self) -> dict[bytes, Method]:
        return {
            b"/t/Unary": Method(self.unary, Record, False, False, False),
            b"/t/Sleep": Method(self.sleep, Record, False, False, True),
            b"/t/Download": Method(self.download, Record, False, True, True),
            b"/t/Both": Method(self.both, AttachRequest, True, True, True),
            b"/t/Sink": Method(self.sink, AttachRequest, True, True, True),
        }


def random_id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1


async def serve(line: Line, methods: dict[bytes, Method]) -> None:
    try:
        await serve_link(line, methods, random_id)
    except* LineClosed:
        pass
    finally:
        line.close()


@asynccontextmanager
async def echo_channel() -> AsyncIterator[tuple[Channel, Echo]]:
    here, there = socket.socketpair()
    echo = Echo()
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        nursery.start_soon(serve, Line(there.detach()), echo.methods())
        channel = Channel(loop, Line(here.detach()))
        nursery.start_soon(channel.run)
        try:
            yield channel, echo
        finally:
            nursery.cancel_scope.cancel()


__all__ = ["AttachRequest", "AttachResponse", "Echo", "Record", "echo_channel", "serve", "stdio_pb2"]
