"""Connecting to unix sockets."""

import os
import socket
from pathlib import Path

import trio

from tether.transport.unix_socket import connect_unix


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        first.connect(str(tmp_path / "s"))
        place = os.open(tmp_path / "s", os.O_PATH)
        try:
            with trio.move_on_after(0.05) as scope:
                await connect_unix(place)
            assert scope.cancelled_caught
            listener.accept()[0].close()
            async with await connect_unix(place) as stream:
                accepted, _ = listener.accept()
                with accepted:
                    await stream.send_all(b"hello")
                    assert accepted.recv(10) == b"hello"
        finally:
            os.close(place)
