"""Whether and when an ended container starts again: pure decisions, as moby's restartmanager makes them."""

from dataclasses import dataclass

from appliance.container.host_config import RestartPolicy

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 60.0
# A run of this length shows that the container works: the next restart comes after the shortest wait again.
LONG_RUN_NS = 10 * 10**9


@dataclass(frozen=True, slots=True)
class History:
    """What happened before this end of the container.

    `restarts` counts restarts since a user started the container, `short_runs` the restarts in a row after short runs.
    `stopped_by_user`: a client asked for this end.
    """

    restarts: int = 0
    short_runs: int = 0
    stopped_by_user: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Start again after so many seconds, or stay down if None. `short_runs` is the count for the next decision."""

    restart_after: float | None
    short_runs: int

    @property
    def restarts(self) -> bool:
        return self.restart_after is not None


def decide(policy: RestartPolicy, exit_code: int, ran_ns: int, history: History) -> Decision:
    """What follows a run of `ran_ns` nanoseconds that ended with `exit_code`."""
    short_runs = 0 if ran_ns >= LONG_RUN_NS else history.short_runs
    if not _wants_restart(policy, exit_code, history):
        return Decision(None, short_runs)
    return Decision(_wait(short_runs), short_runs + 1)


def decide_after_boot(policy: RestartPolicy, exit_code: int, history: History) -> Decision:
    """What the daemon does at its start with a container that has run before and is down: `always` ignores a stop by the user."""
    if policy.name == "always" or _wants_restart(policy, exit_code, history):
        return Decision(_wait(history.short_runs), history.short_runs + 1)
    return Decision(None, history.short_runs)


def _wants_restart(policy: RestartPolicy, exit_code: int, history: History) -> bool:
    if history.stopped_by_user:
        return False
    match policy.name:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            exhausted = 0 < policy.maximum_retry_count <= history.restarts
            return exit_code != 0 and not exhausted
        case _:
            return False


def _wait(short_runs: int) -> float:
    """0.1 s, then twice as long after each short run, at most a minute."""
    return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(10, short_runs))
