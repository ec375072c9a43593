"""Drivers of client tools, copied into the cache and built there once for each state of their files."""

import fcntl
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_HERE = Path(__file__).parent
_SECONDS = 1800


def cache_folder() -> Path:
    """The folder of this lane in the cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch/clients"


def prepared(name: str, *commands: list[str]) -> Path:
    """A copy of the driver `name` in which the commands have run. Skips the test where the program of a command is missing."""
    for command in commands:
        if shutil.which(command[0]) is None:
            pytest.skip(f"{command[0]} is not installed")
    source = _HERE / name
    digest = hashlib.sha256(repr(commands).encode())
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in files:
        digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes())
    folder = cache_folder() / f"{name}-{digest.hexdigest()[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / ".prepared"
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            for path in files:
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
            for command in commands:
                _run(command, folder)
            done.touch()
    return folder


def _run(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if result.returncode:
        raise AssertionError(
            f"{' '.join(command)}: {result.returncode}\n{result.stdout[-4000:]}{result.stderr[-4000:]}"
        )
