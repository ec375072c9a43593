"""A virtio port: no end of file, a page for each read, and a writer that nothing wakes."""

import os
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tether.transport import VirtioPort, open_virtio_port


def _port() -> tuple[VirtioPort, socket.socket]:
    # Packets: each read of the port returns one, as the driver returns one page.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.setblocking(False)
    return VirtioPort(ours.detach()), theirs


async def test_pages_that_are_there_are_read_together() -> None:
    port, host = _port()
    with host:
        for fill in (b"a", b"b", b"c"):
            host.send(fill * 4096)
        host.send(b"d" * 10)
        host.send(b"e")
        assert await port.read() == b"a" * 4096 + b"b" * 4096 + b"c" * 4096 + b"d" * 10
        assert await port.read() == b"e"
    port.close()


async def test_an_empty_read_is_no_end(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    port, host = _port()
    answers = [b"", b"", b"", b"here"]
    monkeypatch.setattr("tether.transport.virtio.os.read", lambda fd, size: answers.pop(0))
    start = trio.current_time()
    assert await port.read() == b"here"
    assert trio.current_time() - start == pytest.approx(0.005 + 0.02 + 0.05)
    monkeypatch.undo()
    host.close()
    port.close()


async def test_a_writer_waits_longer_each_time(autojump_clock: MockClock) -> None:
    port, host = _port()
    while port.try_write(bytes(4096)):
        pass
    pauses = []
    for _ in range(12):
        start = trio.current_time()
        await port.wait_writable()
        pauses.append(trio.current_time() - start)
        assert port.try_write(b"x") == 0
    assert pauses[0] == pytest.approx(0.002)
    assert pauses[-1] == pytest.approx(0.25)
    host.recv(4096)
    assert port.try_write(b"x") == 1
    start = trio.current_time()
    await port.wait_writable()
    assert trio.current_time() - start == pytest.approx(0.001)
    host.close()
    port.close()


def test_a_port_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in ((1, "other"), (2, "tether")):
        (tmp_path / f"vport0p{number}").mkdir()
        (tmp_path / f"vport0p{number}/name").write_text(f"{name}\n")
    opened: list[str] = []
    real = os.open

    def fake(path: str, flags: int) -> int:
        opened.append(path)
        return real("/dev/null", flags)

    monkeypatch.setattr("tether.transport.virtio.os.open", fake)
    port = open_virtio_port("tether", tmp_path)
    monkeypatch.undo()
    assert opened == ["/dev/vport0p2"]
    os.close(port.fd)
    with pytest.raises(FileNotFoundError, match="no virtio port is named nothing"):
        open_virtio_port("nothing", tmp_path)
