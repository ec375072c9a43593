"""TCP connections are ended that leave the machine, and no others."""

import errno
import os
import socket

import pytest

from tests.tether.isolated import run_isolated
from tether.system.rtnetlink import Rtnetlink, loopback_up
from tether.system.sock_diag import close_tcp

_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOENT)


def _pair(address: str) -> tuple[socket.socket, socket.socket]:
    with socket.create_server((address, 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return client, server


def _close() -> None:
    loopback_up()
    with Rtnetlink() as rtnetlink:
        rtnetlink.add_address(1, "10.9.8.7/24")
    local, outside = _pair("127.0.0.1"), _pair("10.9.8.7")
    try:
        ended = close_tcp()
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return  # a kernel without tcp_diag
        raise
    if ended == 0:
        return  # a kernel without CONFIG_INET_DIAG_DESTROY
    # The reset that ends one end may have ended the other before its turn comes.
    assert ended in (1, 2)
    for end in outside:
        with pytest.raises(ConnectionError):
            end.recv(1)
    local[0].sendall(b"x")
    assert local[1].recv(1) == b"x"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_connections_to_other_machines_end() -> None:
    run_isolated(_close, namespaces=("--net",))
