"""A real buildkitd on this host, without a VM: most of what builds do is tested with it in seconds."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.buildkit.channel import BuildkitChannel
from appliance.engine.builds.contracts import BuilderLease, Builders
from tests.live import gotools

_START_SECONDS = 60


def insecure(*registries: str) -> str:
    """A part of buildkitd.toml: these registries ("127.0.0.1:5000") serve plain HTTP."""
    return "".join(f'[registry."{name}"]\n  http = true\n' for name in registries)


@contextlib.contextmanager
def native_buildkitd(
    folder: Path, *, config: str = "", inside: Sequence[str] = (), flags: Sequence[str] = ()
) -> Iterator[Path]:
    """The unix socket of a buildkitd that has its state in `folder`; skips the test without root, runc or Go.

    `config`: its buildkitd.toml. `inside` goes before its command: it runs in a network namespace then. Its RUNs have its network.
    `flags` are further ones.
    `folder/buildkitd.log` is its log.
    """
    program = gotools.buildkitd()
    if os.geteuid() or shutil.which("runc") is None or program is None:
        pytest.skip("buildkitd needs root, runc, and Go to build it with")
    (folder / "buildkitd.toml").write_text(config)
    # The path of a unix socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="vch-") as short, open(folder / "buildkitd.log", "wb") as log:
        path = Path(short) / "buildkitd.sock"
        command = [
            *inside,
            # With its PID namespace all of its RUNs end, and with its mount namespace all of its mounts.
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
            *(str(program), "--root", str(folder / "buildkit"), "--addr", f"unix://{path}"),
            *("--config", str(folder / "buildkitd.toml"), "--containerd-worker=false", "--oci-worker-net=host", *flags),
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not _answers(path):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"buildkitd did not start: {(folder / 'buildkitd.log').read_text()[-3000:]}")
                time.sleep(0.02)
            yield path
        finally:
            process.kill()
            process.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class NativeBuilders:
    """Leases of a native buildkitd, in place of the builder machine. `door`: see BuilderLease."""

    running = True

    def __init__(self, channel: BuildkitChannel, door: str) -> None:
        self._lease = BuilderLease(channel, door)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[BuilderLease]:
        """See engine.builds.contracts.Builders."""
        yield self._lease


def check_types(builders: NativeBuilders) -> Builders:
    """mypy: it is what the contract says."""
    return builders
