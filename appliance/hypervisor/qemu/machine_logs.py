"""The logs in a machine's folder, which a guest can fill: its console, and the messages of QEMU and virtiofsd about its requests.

The folder is often in memory. The processes write at their own offsets and outlive vchd, so that a log cannot be cut: what is older
than the newest `KEPT` bytes becomes a hole. The size of the file grows, the space that the file takes does not.
"""

import contextlib
import ctypes
import os
from collections.abc import Iterable
from pathlib import Path

import trio

KEPT = 64 << 10
# What a log may take before it is trimmed.
_MOST = 1 << 20
_TRIM_SECONDS = 5.0
_WORDS = 2000
_BLOCK = 4096
_GUESTS = ("qemu.log", "virtiofsd.log", "console.log")

_libc = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


def last_words(folder: Path) -> str:
    """The end of each log in a machine's folder: QEMU's command line and messages, virtiofsd's messages, the console."""
    words = []
    for name in ("command", *_GUESTS):
        with contextlib.suppress(OSError), open(folder / name, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _WORDS))
            # A guest may write zeros, and a hole reads as zeros.
            text = file.read(_WORDS).replace(b"\0", b"").decode("utf-8", "replace").strip()
            if text:
                words.append(f"{name}: {text}")
    return "\n".join(words)


def trim(folder: Path) -> None:
    """Make all but the end of each large log of a machine a hole. Blocking."""
    for name in _GUESTS:
        with contextlib.suppress(OSError), open(folder / name, "r+b", buffering=0) as file:
            status = os.fstat(file.fileno())
            if status.st_blocks * 512 > _MOST:
                end = (status.st_size - KEPT) // _BLOCK * _BLOCK
                _libc.fallocate(file.fileno(), _KEEP_SIZE | _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(end))


def _trim_all(folders: Iterable[Path]) -> None:
    for folder in folders:
        trim(folder)


async def keep_trimmed(root: Path) -> None:
    """Trim the logs of all machines with folders below `root`, again and again, until cancelled."""
    while True:
        await trio.sleep(_TRIM_SECONDS)
        folders = await trio.to_thread.run_sync(lambda: list(root.iterdir()))
        await trio.to_thread.run_sync(_trim_all, folders)
