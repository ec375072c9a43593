"""Bounds for a child process that reads what a client or a registry has sent: the child ends, not vchd."""

import contextlib
import math
import resource
import signal
import time
from pathlib import Path


def confine(memory: int) -> None:
    """Bound the address space of this process, in bytes. The kernel ends this process before vchd when memory is short."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    memory = memory if most == resource.RLIM_INFINITY else min(memory, most)
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    # The parent may ignore the signal of the limit for CPU time.
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    # A terminal's Ctrl-C is for vchd. Its children end with it, since their input ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def limit_cpu_time(seconds: int) -> None:
    """Let SIGXCPU end this process after so much more CPU time. The kernel's limit counts from the start of the process."""
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    seconds += math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if most == resource.RLIM_INFINITY else min(seconds, most), most))
