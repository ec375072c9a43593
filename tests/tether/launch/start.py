"""`python -m tests.tether.launch.start CONFIG CGROUP [PID]`: launch a spec as the tether does, its output to ours, its status as ours.

With PID the process enters the network, pid and ipc namespace of another process.

A program of its own, since launching forks a process that must have no threads.
"""

import os
import sys
from pathlib import Path

import trio

from tether.launch.failure import LaunchFailure
from tether.launch.launcher import Stdio, launch
from tether.launch.namespaces import Namespaces, open_namespace
from tether.launch.spec import parse_spec_untrusted
from tether.system import linux

_CHILD_SUBREAPER = 36


async def _main(config: Path, cgroup: Path, owner: int) -> int:
    spec = parse_spec_untrusted(config.read_bytes())
    group = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    namespaces = Namespaces()
    if owner:
        # A process that enters a pid namespace is a grandchild.
        linux.prctl(_CHILD_SUBREAPER, 1)
        namespaces = Namespaces(*(open_namespace(owner, kind) for kind in ("network", "pid", "ipc")))
    try:
        launched = await launch(spec, Stdio(0, 1, 2), group, namespaces=namespaces)
    except LaunchFailure as failure:
        print(failure, file=sys.stderr)
        return 125
    _, status = os.waitpid(launched.pid, 0)  # noqa: ASYNC222
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(trio.run(_main, Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if sys.argv[3:] else 0))
