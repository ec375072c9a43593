"""From an OCI runtime spec to a running process: namespaces, mounts, cgroup, users, capabilities, limits, exec.

The child's half (`child`, `rootfs`, `credentials`) runs between fork and exec, in a copy of the tether, and must not touch
trio. crun is the oracle: the same spec through both gives the same process.
"""

from tether.launch.failure import LaunchFailure
from tether.launch.launcher import Launched, Prepared, Stdio, fork, launch
from tether.launch.prefetch import prefetch
from tether.launch.spec import Spec, parse_spec_untrusted

__all__ = [
    "LaunchFailure",
    "Launched",
    "Prepared",
    "Spec",
    "Stdio",
    "fork",
    "launch",
    "parse_spec_untrusted",
    "prefetch",
]
