"""The daemon's own log, sent to a syslog server."""

import logging
import socket

import pytest

from appliance.diag.shipping import parse_server, shipped
from appliance.errors import InvalidParameter

log = logging.getLogger("appliance.somewhere")


def _servers() -> tuple[socket.socket, socket.socket]:
    stream, datagrams = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", 0))
    for one in (stream, datagrams):
        one.settimeout(10)
    return stream, datagrams


def test_everything_that_is_logged_is_sent() -> None:
    stream, datagrams = _servers()
    with stream, datagrams:
        with shipped(f"udp://127.0.0.1:{datagrams.getsockname()[1]}"):
            log.warning("first %d", 1)
        assert datagrams.recv(2000).startswith(b"<28>1 ")
        with shipped(f"tcp://127.0.0.1:{stream.getsockname()[1]}"):
            try:
                raise ValueError("wrong")
            except ValueError:
                log.exception("it failed")
        connection, _ = stream.accept()
        with connection:
            connection.settimeout(10)
            said = b""
            while data := connection.recv(65536):
                said += data
    lines = said.decode().splitlines()
    assert lines[0].startswith("<27>1 ")
    assert lines[0].endswith("vchd - ERROR appliance.somewhere: it failed")
    assert lines[-1].endswith("ValueError: wrong")
    assert all(line.startswith("<27>1 ") for line in lines)


def test_a_broken_connection_is_opened_again() -> None:
    stream, _ = servers = _servers()
    with servers[0], servers[1]:
        with shipped(f"tcp://127.0.0.1:{stream.getsockname()[1]}"):
            log.warning("one")
            connection, _ = stream.accept()
            assert connection.recv(2000).endswith(b": one\n")
            connection.close()
            # What is sent into the broken connection is lost; some message later it is noticed.
            said = b""
            while not said:
                log.warning("more")
                stream.settimeout(0.2)
                try:
                    connection, _ = stream.accept()
                except TimeoutError:
                    continue
                with connection:
                    said = connection.recv(2000)
        assert b": more\n" in said


def test_a_missing_server_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.diag.shipping._MOST_WAITING", 500)
    with shipped("tcp://127.0.0.1:1"):
        for _ in range(1_000):
            log.warning("a line")


@pytest.mark.parametrize("text", ["host", "http://host", "unix:///dev/log", "udp://", "udp://host:x"])
def test_invalid_server_addresses(text: str) -> None:
    with pytest.raises(InvalidParameter, match="syslog-address"):
        parse_server(text)
