"""`vchd`: the process. `composition.py` builds the daemon's objects, `listeners.py` its API sockets."""

import contextlib
import fcntl
import logging
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import trio

from appliance.composition import composed
from appliance.config import Config, parse_arguments
from appliance.diag import dump_tasks
from appliance.diag.logfile import FORMAT, LOG_NAME, log_to
from appliance.diag.shipping import shipped
from appliance.errors import Conflict, VchError, leaves
from appliance.listeners import api_listens

_LEVELS = {"debug": 10, "info": 20, "warn": 30, "error": 40, "fatal": 50}


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lock the folder against a second vchd. The kernel releases the lock when this process ends, even by a kill."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{folder} is in use by another vchd") from None
        yield
    finally:
        os.close(fd)


def _allow_many_files() -> None:
    """Raise the soft limit of open files to the hard limit: each machine needs four descriptors and each client one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT; SIGUSR1 prints all tasks."""
    _allow_many_files()
    async with AsyncExitStack() as stack:
        stack.enter_context(_lock(config.data_root))
        log_to(config.data_root / LOG_NAME)
        stack.enter_context(shipped(config.syslog_address))
        daemon = await stack.enter_async_context(composed(config))
        await stack.enter_async_context(api_listens(config, daemon.router, daemon.mounts))
        await _wait_for_end()


async def _wait_for_end() -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGUSR1) as signals:
        async for number in signals:
            if number != signal.SIGUSR1:
                return
            sys.stderr.write(dump_tasks())


def run() -> None:
    """The console script `vchd`."""
    try:
        config = parse_arguments(sys.argv[1:])
        logging.basicConfig(level=_LEVELS[config.log_level], format=FORMAT)
        # These libraries log every request.
        for name in ("httpx", "httpcore", "pyroute2", "asyncio"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Other users of this host may not read records, logs and disks of containers.
        os.umask(0o077)
        trio.run(serve, config)
    except* (VchError, OSError) as group:
        sys.exit(f"vchd: {'; '.join(str(leaf) for leaf in leaves(group))}")
