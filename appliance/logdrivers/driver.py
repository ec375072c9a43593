"""The contract of a log driver."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import trio

from appliance.container.container_record import ContainerRecord
from appliance.streams.logfile import LogFile

Options = Mapping[str, str]
"""The client's `--log-opt` pairs (LogConfig.Config)."""


@dataclass(frozen=True, slots=True)
class LogLimits:
    """A log is at most `files` pieces of `size` bytes; a new piece drops the oldest. `size` 0: no limit."""

    size: int = 0
    files: int = 1


class LogDriver(Protocol):
    """A log driver. It has no state: one object serves all containers."""

    @property
    def name(self) -> str:
        """The name of `--log-driver`."""

    @property
    def readable(self) -> bool:
        """Whether `docker logs` can read the log."""

    def check(self, options: Options) -> list[str]:
        """Return warnings for options without effect. InvalidParameter with Docker's text for a wrong name or value."""

    def limits(self, options: Options) -> LogLimits | None:
        """How much of the log stays in the container's folder; None: vchd writes no log file and drops the output."""

    def attributes(self, record: ContainerRecord) -> dict[str, str]:
        """What `docker logs --details` shows before each line of the container's log. It may take seconds: call it in a thread."""


class ContainerLog(Protocol):
    """What a shipping driver sees of a container. The engine's Container satisfies it."""

    record: ContainerRecord
    folder: Path
    """The container's folder; a driver may keep its own files there."""
    log_news: trio.Event
    """Set when the log has grown or the run has ended, and then replaced."""
    removed: bool

    @property
    def running(self) -> bool: ...

    def open_log(self) -> LogFile: ...


@runtime_checkable
class ShippingDriver(LogDriver, Protocol):
    """A log driver that also sends the log to a server. It reads the log file, so `limits` is never None."""

    async def ship(self, log: ContainerLog) -> None:
        """Send the log until the run has ended and all of the log is sent, or until the container is removed.

        While the server does not answer, keep the rest and try again. A later run continues with what is left.
        """
