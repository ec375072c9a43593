"""The port of fast paths: clients without the right certificate are refused, and do not delay guests."""

import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.errors import Unavailable
from appliance.guest.fast_path import FastPaths
from tether.transport import TlsLine
from tether.transport.tls import in_time, load_identity

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a socket of one device needs the rights of root")


@asynccontextmanager
async def _lines() -> AsyncIterator[tuple[FastPaths, int]]:
    async with trio.open_nursery() as nursery:
        lines = FastPaths("lo", 0)
        await nursery.start(lines.run)
        yield lines, lines.port
        nursery.cancel_scope.cancel()


def _context(lines: FastPaths, name: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=lines.authority.pem.decode())
    if name is not None:
        load_identity(context, *lines.authority.identity(name))
    return context


async def _dial(port: int, context: ssl.SSLContext) -> bytes | None:
    """The bytes that the client receives after the handshake: b"" when refused, None when accepted without a message."""
    connection = socket.create_connection(("127.0.0.1", port))
    line = TlsLine(connection.detach(), context, server=False)
    if not await in_time(line, 10):
        return b""
    try:
        with trio.move_on_after(0.5):
            return await line.read()
    except Exception:
        return b""
    finally:
        line.close()
    return None


async def test_only_the_expected_guest_connects_and_only_once() -> None:
    came: list[TlsLine] = []
    async with _lines() as (lines, port):
        lines.expect("guest", came.append)
        assert await _dial(port, _context(lines, None)) == b""
        assert await _dial(port, _context(lines, "another")) == b""
        assert not came
        assert await _dial(port, _context(lines, "guest")) is None
        assert len(came) == 1
        assert await _dial(port, _context(lines, "guest")) == b""
        assert len(came) == 1
        came[0].close()


async def test_another_authority_is_none() -> None:
    came: list[TlsLine] = []
    async with _lines() as (lines, port), _lines() as (others, _):
        lines.expect("guest", came.append)
        context = _context(lines, None)
        load_identity(context, *others.authority.identity("guest"))
        assert await _dial(port, context) == b""
        assert not came


async def test_a_silent_client_does_not_delay_others() -> None:
    came: list[TlsLine] = []
    async with _lines() as (lines, port):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
        for one in silent[:20]:
            one.sendall(os.urandom(300))
        lines.expect("guest", came.append)
        assert await _dial(port, _context(lines, "guest")) is None
        for one in silent:
            one.close()
        came[0].close()


async def test_a_port_that_is_taken() -> None:
    async with _lines() as (_, port), trio.open_nursery() as nursery:
        with pytest.raises(Unavailable, match=f"port {port} of lo for guests: .*in use"):
            await nursery.start(FastPaths("lo", port).run)
