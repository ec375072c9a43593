"""The socket between grpcio and the link: nobody else can connect to it."""

import os
import socket
from pathlib import Path

import pytest

from tether.rpc.grpcio_socket import listen_in_private


def test_a_private_socket_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 150)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    listener, place = listen_in_private()
    try:
        assert list(long.iterdir()) == []
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{place}")
            with listener.accept()[0] as served:
                served.sendall(b"x")
            assert client.recv(10) == b"x"
        assert not listener.getsockname().startswith("\0")
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match=r"No such file|Not a directory"):
            client.connect(listener.getsockname())
    finally:
        listener.close()
        os.close(place)


def test_a_folder_that_cannot_be_used_leaves_nothing_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "absent"))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError):
        listen_in_private()
    assert len(os.listdir("/proc/self/fd")) == len(before)
