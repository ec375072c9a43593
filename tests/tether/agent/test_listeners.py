"""Which listening sockets are reachable from outside the guest."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tether.agent.listeners import listening


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _bound(stack: ExitStack, kind: socket.SocketKind, address: str, port: int = 0) -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = stack.enter_context(socket.socket(family, kind))
    one.bind((address, port))
    if kind is socket.SOCK_STREAM:
        one.listen()
    return int(one.getsockname()[1])


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_tcp_at_any_address(stack: ExitStack, address: str) -> None:
    assert ("tcp", _bound(stack, socket.SOCK_STREAM, address)) in set(listening())


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.9", "::1", "::ffff:127.0.0.1"])
def test_listeners_on_loopback_are_left_out(stack: ExitStack, address: str) -> None:
    assert ("tcp", _bound(stack, socket.SOCK_STREAM, address)) not in set(listening())


def test_udp_of_servers_but_not_of_clients(stack: ExitStack) -> None:
    server = _bound(stack, socket.SOCK_DGRAM, "0.0.0.0", 5999)
    client = _bound(stack, socket.SOCK_DGRAM, "0.0.0.0")
    found = set(listening())
    assert ("udp", server) in found
    assert ("udp", client) not in found


def test_a_connection_is_no_listener(stack: ExitStack) -> None:
    port = _bound(stack, socket.SOCK_STREAM, "127.0.0.1")
    one = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
    assert ("tcp", one.getsockname()[1]) not in set(listening())
