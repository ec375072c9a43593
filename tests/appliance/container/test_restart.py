"""Restart decisions, as a table."""

import pytest

from appliance.container.host_config import RestartPolicy
from appliance.container.restart import Decision, History, decide, decide_after_boot

_SECOND = 10**9
_STOPPED = History(stopped_by_user=True)
_DOWN = None


@pytest.mark.parametrize(
    ("policy", "code", "seconds", "history", "expected"),
    [
        (RestartPolicy(), 1, 1, History(), (_DOWN, 0)),
        (RestartPolicy("no"), 1, 1, History(), (_DOWN, 0)),
        (RestartPolicy("always"), 0, 1, History(), (0.1, 1)),
        (RestartPolicy("always"), 0, 1, _STOPPED, (_DOWN, 0)),
        (RestartPolicy("unless-stopped"), 0, 1, History(), (0.1, 1)),
        (RestartPolicy("unless-stopped"), 137, 1, _STOPPED, (_DOWN, 0)),
        (RestartPolicy("on-failure"), 0, 1, History(), (_DOWN, 0)),
        (RestartPolicy("on-failure"), 1, 1, History(restarts=1000, short_runs=3), (0.8, 4)),
        (RestartPolicy("on-failure", 3), 1, 1, History(restarts=2, short_runs=2), (0.4, 3)),
        (RestartPolicy("on-failure", 3), 1, 1, History(restarts=3, short_runs=3), (_DOWN, 3)),
        (RestartPolicy("on-failure", 3), 1, 1, History(restarts=4, short_runs=3), (_DOWN, 3)),
        (RestartPolicy("on-failure", 3), 1, 1, _STOPPED, (_DOWN, 0)),
        # The wait doubles after each short run, up to a minute, and starts over after a long run.
        (RestartPolicy("always"), 1, 9.9, History(short_runs=9), (51.2, 10)),
        (RestartPolicy("always"), 1, 9.9, History(short_runs=10), (60.0, 11)),
        (RestartPolicy("always"), 1, 9.9, History(short_runs=5000), (60.0, 5001)),
        (RestartPolicy("always"), 1, 10, History(short_runs=9), (0.1, 1)),
        (RestartPolicy("no"), 1, 10, History(short_runs=9), (_DOWN, 0)),
    ],
)
def test_an_end(
    policy: RestartPolicy, code: int, seconds: float, history: History, expected: tuple[float | None, int]
) -> None:
    decision = decide(policy, code, int(seconds * _SECOND), history)
    assert decision == Decision(*expected)
    assert decision.restarts is (expected[0] is not None)


@pytest.mark.parametrize(
    ("policy", "code", "history", "restarts"),
    [
        (RestartPolicy(), 1, History(), False),
        (RestartPolicy("no"), 0, History(), False),
        (RestartPolicy("always"), 0, History(), True),
        (RestartPolicy("always"), 0, _STOPPED, True),
        (RestartPolicy("unless-stopped"), 0, History(), True),
        (RestartPolicy("unless-stopped"), 0, _STOPPED, False),
        (RestartPolicy("on-failure"), 1, History(), True),
        (RestartPolicy("on-failure"), 0, History(), False),
        (RestartPolicy("on-failure"), 1, _STOPPED, False),
        (RestartPolicy("on-failure", 2), 1, History(restarts=2), False),
    ],
)
def test_the_start_of_the_daemon(policy: RestartPolicy, code: int, history: History, restarts: bool) -> None:
    assert decide_after_boot(policy, code, history) == Decision(0.1 if restarts else None, 1 if restarts else 0)
