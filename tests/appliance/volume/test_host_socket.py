"""Sockets of this host as sources of mounts."""

import os
import socket
import struct
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.errors import InvalidParameter
from appliance.volume import host_socket
from appliance.volume.host_socket import HostSocket, check_kind, is_socket


def _bound(path: Path, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, kind)
    made.bind(str(path))
    return made


def test_kinds(tmp_path: Path) -> None:
    assert not is_socket(str(tmp_path))
    assert not is_socket(str(tmp_path / "missing"))
    for kind in (socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
        with _bound(tmp_path / kind.name, kind) as made:
            if kind == socket.SOCK_SEQPACKET:
                made.listen()
            assert is_socket(str(tmp_path / kind.name))
            with pytest.raises(
                InvalidParameter, match=f"is a socket of type {kind.name}: only connections of SOCK_STREAM"
            ):
                check_kind(str(tmp_path / kind.name))
    with _bound(tmp_path / "stream", socket.SOCK_STREAM) as made:
        check_kind(str(tmp_path / "stream"))
        made.listen()
        made.setblocking(False)
        check_kind(str(tmp_path / "stream"))
        # The server has noticed nothing.
        with pytest.raises(BlockingIOError):
            made.accept()
    # Nothing listens any more, but it may come back.
    check_kind(str(tmp_path / "stream"))
    check_kind(str(tmp_path / "missing"))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the rights of root")
@pytest.mark.parametrize("peer", [(0, 0), (4321, 1234), (0, 77)])
async def test_the_server_sees_the_user_of_the_container(tmp_path: Path, peer: tuple[int, int]) -> None:
    # Longer than sun_path, in a folder that the user may not enter, and with a mode that keeps the user out.
    folder = tmp_path / ("x" * 150)
    folder.mkdir(mode=0o700)
    place = os.open(folder, os.O_PATH)
    with _bound(Path(f"/proc/self/fd/{place}/s"), socket.SOCK_STREAM) as listener:
        os.close(place)
        os.chmod(folder / "s", 0o600)
        listener.listen()
        async with await HostSocket(str(folder / "s")).dial(*peer):
            connection, _ = listener.accept()
            with connection:
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                assert struct.unpack("3i", credentials)[1:] == peer
    assert (os.geteuid(), os.getegid()) == (0, 0)


async def test_nothing_listens(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await HostSocket(str(tmp_path / "missing")).dial(0, 0)
    _bound(tmp_path / "dead", socket.SOCK_STREAM).close()
    for peer in ((0, 0), (1, 1)):
        with pytest.raises(ConnectionRefusedError):
            await HostSocket(str(tmp_path / "dead")).dial(*peer)


async def test_a_server_that_accepts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """However many connections wait, one of them tries. Each of them is over after its time."""
    tries, over = 0, []

    async def queue_is_full(uid: int, gid: int, made: socket.socket, path: str) -> None:
        nonlocal tries
        tries += 1
        raise BlockingIOError

    monkeypatch.setattr(host_socket, "_connect_as", queue_is_full)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with _bound(tmp_path / "busy", socket.SOCK_STREAM):
        server = HostSocket(str(tmp_path / "busy"))

        async def dial() -> None:
            with pytest.raises(TimeoutError):
                await server.dial(1, 1)
            over.append(trio.current_time())

        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(dial)
    assert len(over) == 100
    assert over[-1] - begun < 31
    assert tries < 400
