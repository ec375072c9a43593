"""A real dockerd for tests: Debian's docker.io, started by hand on a socket of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tether.launch.credentials import CAPABILITIES

# Debian's dockerd gives a privileged container all capabilities of the kernel, and runc fails where the test's own process has fewer.
_RUNTIME = """#!/bin/sh
for word; do
    if [ -f "$word/config.json" ]; then sed -i -E 's/"CAP_({missing})",?//g' "$word/config.json"; fi
done
exec runc "$@"
"""


def missing_capabilities() -> list[str]:
    """The capabilities that containers of a dockerd on this host cannot have, without CAP_."""
    status = Path("/proc/self/status").read_text()
    bounding = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapBnd:"))
    return [name for number, name in enumerate(CAPABILITIES) if not bounding >> number & 1]


def _runtime_options(root: Path) -> str:
    """Options with which dockerd's runtime leaves out the capabilities that this host does not have."""
    missing = missing_capabilities()
    if not missing:
        return ""
    runtime = root / "runtime"
    runtime.write_text(_RUNTIME.format(missing="|".join(missing)))
    runtime.chmod(0o755)
    return f" --add-runtime bounded={runtime} --default-runtime bounded"


@contextlib.contextmanager
def dockerd(root: Path, *, bridge: bool = False) -> Iterator[Path | None]:
    """The socket of a running dockerd; None where dockerd cannot run.

    With `bridge` it has its usual network, in a network namespace of its own; else none, and touches none of the host's.
    """
    if os.geteuid() or shutil.which("dockerd") is None:
        yield None
        return
    socket = root / "dockerd.sock"
    network = "--bip 172.30.0.1/24" if bridge else "--bridge none --iptables=false --ip6tables=false"
    daemon = (
        f"{'ip link set lo up; ' if bridge else ''}exec dockerd --experimental -H unix://{socket} --data-root {root}/dockerd "
        f"--exec-root {root}/dockerd-exec --pidfile {root}/dockerd.pid {network}{_runtime_options(root)}"
    )
    command = [*(("unshare", "-n") if bridge else ()), "sh", "-c", daemon]
    with open(root / "dockerd.log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if (
                socket.exists()
                and not subprocess.run(
                    ["docker", "-H", f"unix://{socket}", "version"], capture_output=True, check=False
                ).returncode
            ):
                break
            time.sleep(0.1)
        yield socket if process.poll() is None else None
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
