"""`python -m tests.tether.launch.start CONFIG CGROUP`: launch a spec as the tether does, its output to ours, its status as ours.

A program of its own, since launching forks a process that must have no threads.
"""

import os
import sys
from pathlib import Path

import trio

from tether.launch.failure import LaunchFailure
from tether.launch.launcher import Stdio, launch
from tether.launch.spec import parse_spec_untrusted


async def _main(config: Path, cgroup: Path) -> int:
    spec = parse_spec_untrusted(config.read_bytes())
    group = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        launched = await launch(spec, Stdio(0, 1, 2), group)
    except LaunchFailure as failure:
        print(failure, file=sys.stderr)
        return 125
    _, status = os.waitpid(launched.pid, 0)  # noqa: ASYNC222
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(trio.run(_main, Path(sys.argv[1]), Path(sys.argv[2])))
