"""Health checks: the command to run, and the status that its results lead to (moby daemon/health.go). Pure."""

from dataclasses import dataclass, field

from appliance.container.config import ContainerConfig, HealthConfig

_SECOND = 1_000_000_000
_KEPT = 5
MOST_OUTPUT = 4096


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Times in ns. Failures in the first `start_period` after the start do not count."""

    command: list[str]
    interval: int
    timeout: int
    start_period: int
    start_interval: int
    retries: int


def check_of(config: ContainerConfig) -> HealthCheck | None:
    """The health check that a configuration asks for, None for no check."""
    health = config.healthcheck or HealthConfig()
    match health.test or []:
        case ["CMD", *words] if words:
            command = words
        case ["CMD-SHELL", *words] if words:
            command = [*(config.shell or ("/bin/sh", "-c")), " ".join(words)]
        case _:
            return None
    return HealthCheck(
        command,
        health.interval or 30 * _SECOND,
        health.timeout or 30 * _SECOND,
        health.start_period or 0,
        health.start_interval or 5 * _SECOND,
        health.retries or 3,
    )


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of one check. Times are unix ns; `exit_code` is -1 when the command did not end in time."""

    start: int
    end: int
    exit_code: int
    output: str


@dataclass(slots=True)
class Health:
    """`status` is starting, healthy or unhealthy; `log` holds the last results."""

    status: str = "starting"
    streak: int = 0
    log: list[Probe] = field(default_factory=list)

    def take(self, probe: Probe, check: HealthCheck, started: int) -> bool:
        """Count a result of a container that started at `started`; return whether the status changed."""
        before = self.status
        self.log = [*self.log, probe][-_KEPT:]
        if probe.exit_code == 0:
            self.streak, self.status = 0, "healthy"
        elif self.status != "starting" or probe.start - started >= check.start_period:
            self.streak += 1
            if self.streak >= check.retries:
                self.status = "unhealthy"
        return self.status != before

    def wait(self, check: HealthCheck, started: int, now: int) -> int:
        """The time until the next check, ns."""
        early = self.status == "starting" and check.start_period and now - started < check.start_period
        return check.start_interval if early else check.interval
