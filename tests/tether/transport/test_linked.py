"""A link that goes on over quicker lines, which come and break while it carries: nothing is lost, nothing is doubled."""

import os
import random
import socket
import ssl
from pathlib import Path

import pytest
import trio

from tests.live.certificates import self_signed
from tether.link import Data, Event, Opened
from tether.transport import Line, LinkedLine, TlsLine
from tether.transport.tls import in_time, load_identity


class _End:
    """One end: sends all of `data` and collects what it receives."""

    def __init__(self, line: Line, data: bytes) -> None:
        self.data, self.sent, self.came = data, 0, bytearray()
        self.sessions = 0
        self.linked = LinkedLine(line, lambda: random.getrandbits(64) or 1, self._on_event)
        self.linked.on_room = self._fill

    def _on_event(self, event: Event) -> None:
        if isinstance(event, Opened):
            self.sessions += 1
            self._fill()
        elif isinstance(event, Data):
            self.came += event.data
            self.linked.connection.acknowledge(event.session, len(event.data))

    def _fill(self) -> None:
        link = self.linked.connection
        while self.sent < len(self.data) and (room := link.send_room()):
            self.sent += link.send(self.data[self.sent : self.sent + min(room, 64 << 10)])


def _pair() -> tuple[Line, Line]:
    one, other = socket.socketpair()
    return Line(one.detach()), Line(other.detach())


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    certificate, key = self_signed(tmp_path_factory.mktemp("quick"), "127.0.0.1")
    return certificate.read_bytes(), key.read_bytes()


def _context(protocol: int, identity: tuple[bytes, bytes]) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity[0].decode())
    load_identity(context, *identity)
    return context


async def _secured(identity: tuple[bytes, bytes]) -> tuple[TlsLine, TlsLine, list[int]]:
    """Both ends of a TLS line over TCP, and their descriptors' duplicates to break it by."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    breakers = [os.dup(one.fileno()), os.dup(other.fileno())]
    client = TlsLine(one.detach(), _context(ssl.PROTOCOL_TLS_CLIENT, identity), server=False)
    server = TlsLine(other.detach(), _context(ssl.PROTOCOL_TLS_SERVER, identity), server=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(in_time, client, 20)
        nursery.start_soon(in_time, server, 20)
    return client, server, breakers


@pytest.mark.parametrize("seed", range(4))
async def test_all_data_arrives_whichever_line_breaks(seed: int, identity: tuple[bytes, bytes]) -> None:
    source = random.Random(seed)
    breaks = 0
    slow_a, slow_b = _pair()
    a, b = _End(slow_a, source.randbytes(8 << 20)), _End(slow_b, source.randbytes(8 << 20))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.linked.run)
        nursery.start_soon(b.linked.run)

        async def trouble() -> None:
            nonlocal breaks
            while True:
                client, server, breakers = await _secured(identity)
                ends = [(a, client), (b, server)]
                source.shuffle(ends)
                quick = []
                for end, line in ends:
                    quick.append(end.linked.attach(line))
                    await trio.sleep(source.choice((0, 0.01)))
                await trio.sleep(source.random() / 20)
                broken = socket.socket(fileno=breakers.pop(source.randrange(2)))
                broken.shutdown(source.choice((socket.SHUT_RDWR, socket.SHUT_WR)))
                broken.close()
                os.close(breakers[0])
                with trio.fail_after(20):
                    for one in quick:
                        await one.over.wait()
                breaks += 1

        nursery.start_soon(trouble)
        with trio.fail_after(120):
            while len(a.came) < len(b.data) or len(b.came) < len(a.data):  # noqa: ASYNC110
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert a.came == b.data
    assert b.came == a.data
    assert (a.sessions, b.sessions) == (1, 1)
    # How many there were is the machine's to say: a quick one is done soon.
    assert breaks
    slow_a.close()
    slow_b.close()


async def test_data_goes_over_the_fast_path(identity: tuple[bytes, bytes]) -> None:
    slow_a, slow_b = _pair()
    a, b = _End(slow_a, b""), _End(slow_b, b"")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.linked.run)
        nursery.start_soon(b.linked.run)
        with trio.fail_after(20):
            while not (a.sessions and b.sessions):  # noqa: ASYNC110
                await trio.sleep(0.01)
        client, server, breakers = await _secured(identity)
        quick = [a.linked.attach(client), b.linked.attach(server)]
        # Nothing goes the slow way any more: its far end is not read.
        await trio.sleep(0.1)
        written: list[int] = []
        real = slow_a.try_write
        slow_a.try_write = lambda data: written.append(len(data)) or real(data)  # type: ignore[method-assign, func-returns-value]
        a.data = os.urandom(4 << 20)
        a._fill()
        a.linked.flush()
        with trio.fail_after(20):
            while len(b.came) < len(a.data):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert b.came == a.data
        assert not written
        assert not any(one.over.is_set() for one in quick)
        nursery.cancel_scope.cancel()
    # It went with the link.
    assert all(one.over.is_set() for one in quick)
    for fd in breakers:
        os.close(fd)
    slow_a.close()
    slow_b.close()


async def test_no_line_without_the_right_certificate(identity: tuple[bytes, bytes], tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path, "127.0.0.1")
    stranger = certificate.read_bytes(), key.read_bytes()
    one, other = socket.socketpair()
    context = _context(ssl.PROTOCOL_TLS_CLIENT, stranger)
    context.verify_mode = ssl.CERT_NONE
    done: list[bool] = []

    async def shake(line: TlsLine) -> None:
        done.append(await in_time(line, 5))
        if done[-1]:
            # The other end's error is reported after ours.
            with pytest.raises(Exception, match=r"(?i)unknown ca|eof|end of file"):
                await line.read()
            line.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake, TlsLine(one.detach(), context, server=False))
        nursery.start_soon(shake, TlsLine(other.detach(), _context(ssl.PROTOCOL_TLS_SERVER, identity), server=True))
    assert False in done
