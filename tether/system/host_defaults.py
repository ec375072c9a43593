"""Kernel settings and resource limits that a well-configured Docker host has. The guest's kernel derives smaller ones from its memory.

Sources: systemd raises file-max, nr_open and pid_max at boot (sysctl.d/50-pid-max.conf, bump-file-max); containerd.service has no limit
for processes and core files, and since containerd 2.1.5 a soft limit of 1024 open files. dockerd switches ip_forward on, and a new
network namespace inherits that.
"""

import logging
import math
import os
import resource
from pathlib import Path

log = logging.getLogger(__name__)

_PROC_SYS = Path("/proc/sys")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

SYSCTLS = {
    "fs.file-max": (1 << 63) - 1,
    "fs.nr_open": 1073741816,
    # As procps of Debian and systemd: no tricks with links, pipes and files of others in /tmp.
    "fs.protected_fifos": 1,
    "fs.protected_hardlinks": 1,
    "fs.protected_regular": 2,
    "fs.protected_symlinks": 1,
    # Watches take kernel memory only when they are used, and the cgroup of the container pays for it.
    "fs.inotify.max_user_watches": 1048576,
    "fs.inotify.max_user_instances": 1024,
    "kernel.pid_max": 1 << 22,
    # The default of a host with 16 GiB.
    "kernel.threads-max": 1 << 17,
    # Elasticsearch requires 262144.
    "vm.max_map_count": 1048576,
    "net.ipv4.ip_forward": 1,
}

_UNLIMITED = resource.RLIM_INFINITY
# {resource: (soft, hard)}. All processes of the guest inherit these; a container's ulimits replace them.
RLIMITS = {
    # A low soft limit, because some programs close every possible descriptor, or use select(2).
    resource.RLIMIT_NOFILE: (1024, 1048576),
    resource.RLIMIT_NPROC: (_UNLIMITED, _UNLIMITED),
    resource.RLIMIT_CORE: (_UNLIMITED, _UNLIMITED),
    # Half of threads-max, as in the kernel.
    resource.RLIMIT_SIGPENDING: (1 << 16, 1 << 16),
}


def apply_host_defaults() -> None:
    """Set the sysctls, and the limits of this process. A kernel that refuses a value keeps its own; the console gets a message."""
    # With huge pages for every process, a guest takes 2 MiB of its host at once, most of which nobody uses.
    _write(_HUGE_PAGES, "madvise")
    for name, value in SYSCTLS.items():
        _write(_PROC_SYS / name.replace(".", "/"), str(value))
    # The kernel has reserved more, for huge pages. Its formula without them is that of mm/page_alloc.c.
    kib = os.sysconf("SC_PHYS_PAGES") * (os.sysconf("SC_PAGE_SIZE") >> 10)
    _write(_PROC_SYS / "vm/min_free_kbytes", str(math.isqrt(kib * 16)))
    for kind, limits in RLIMITS.items():
        try:
            resource.setrlimit(kind, limits)
        except (OSError, ValueError) as error:
            log.warning("limit %d stays: %s", kind, error)


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value)
    except OSError as error:
        log.warning("%s stays: %s", path, error)
