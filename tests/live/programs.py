"""Programs that tests start beside vchd, and free ports for them."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


def free_port() -> int:
    """A port of loopback that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        number: int = probe.getsockname()[1]
        return number


@contextlib.contextmanager
def running_program(
    command: Sequence[str], log: Path, seconds: float, env: Mapping[str, str] | None = None
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A program, and the line that it prints when it is ready. It ends when its stdin does, or is killed after `seconds`."""
    with open(log, "wb") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=env
        )
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout:
        try:
            said = process.stdout.readline().strip()
            assert said, log.read_text()
            yield process, said
        finally:
            process.stdin.close()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
