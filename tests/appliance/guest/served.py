"""A session with a guest of which a test writes only the services that it needs."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from google.protobuf.descriptor import FileDescriptor

from appliance.guest import GuestSession
from tests.tether.rpc.echo import serve
from tether.rpc.bridge import LoopThread
from tether.rpc.call import Method, methods_of
from tether.transport import Line


@asynccontextmanager
async def served(*services: tuple[FileDescriptor, str, object]) -> AsyncIterator[GuestSession]:
    """`services` are (the proto file, the service's name, an object with its methods)."""
    methods: dict[bytes, Method] = {}
    for file, name, implementation in services:
        methods |= methods_of(file.services_by_name[name], implementation)
    near, far = socket.socketpair()
    async with LoopThread.open() as loop, trio.open_nursery() as nursery:
        nursery.start_soon(serve, Line(far.detach()), methods)
        session = GuestSession(loop, Line(near.detach()))
        nursery.start_soon(session.run)
        with trio.fail_after(20):
            yield session
        nursery.cancel_scope.cancel()
