"""The states of the builder: each event in each state."""

import pytest

from appliance.engine.builds.machine_state import (
    Absent,
    Answers,
    End,
    Ending,
    Event,
    Gone,
    Idle,
    Join,
    Leave,
    Ready,
    Starting,
    State,
    advance,
)


@pytest.mark.parametrize(
    ("state", "event", "following"),
    [
        (Absent(), Join(), Starting(1)),
        (Starting(1), Join(), Starting(2)),
        (Starting(2), Leave(5), Starting(1)),
        (Starting(1), Answers(5), Ready(1)),
        # All builds that waited have gone: the next build finds it warm.
        (Starting(0), Answers(5), Idle(5)),
        (Ready(1), Join(), Ready(2)),
        (Ready(2), Leave(5), Ready(1)),
        (Ready(1), Leave(5), Idle(5)),
        (Idle(5), Join(), Ready(1)),
        (Idle(5), End(), Ending()),
        (Ready(3), End(), Ending()),
        (Starting(1), End(), Ending()),
        (Ending(), Gone(), Absent()),
        (Ending(), Leave(5), Ending()),
        (Absent(), Leave(5), Absent()),
        # After a restart of vchd.
        (Absent(), Answers(5), Idle(5)),
    ],
)
def test_transitions(state: State, event: Event, following: State) -> None:
    assert advance(state, event) == following


@pytest.mark.parametrize(
    ("state", "event"),
    [(Ending(), Join()), (Idle(5), Leave(6)), (Starting(0), Leave(6)), (Ready(1), Answers(5)), (Ending(), Answers(5))],
)
def test_events_that_cannot_occur(state: State, event: Event) -> None:
    with pytest.raises(ValueError, match="in state"):
        advance(state, event)
