"""The states of a container: each move by table, and Docker's texts for moves that are refused."""

import pytest

from appliance.container.lifecycle import (
    Created,
    Event,
    Exit,
    Exited,
    GiveUp,
    NeverStarted,
    Pause,
    Remove,
    Removing,
    Running,
    Start,
    Started,
    StartFailed,
    Starting,
    State,
    Unpause,
    advance,
    status_word,
)
from appliance.errors import Conflict, NotModified, VchError

RUNNING, PAUSED = Running(5, 9), Running(5, 9, paused=True)
EXITED, RESTARTING = Exited(1, 2, 3), Exited(1, 2, 3, restarting=True)


@pytest.mark.parametrize(
    ("state", "event", "result"),
    [
        (Created("old", 127), Start(), Starting()),
        (EXITED, Start(), Starting()),
        (RESTARTING, Start(), Starting()),
        (Starting(), Started(5, 9), RUNNING),
        (Starting(), StartFailed("no", 127, Created()), Created("no", 127)),
        (Starting(), StartFailed("no", 127, EXITED), Exited(1, 2, 127, error="no")),
        (Starting(), NeverStarted(EXITED), EXITED),
        (RUNNING, Exit(7, 137, True, "killed"), Exited(5, 7, 137, True, "killed")),
        (PAUSED, Exit(7, 0), Exited(5, 7, 0)),
        (RUNNING, Exit(7, 1, restarting=True), Exited(5, 7, 1, restarting=True)),
        # The end of a run whose start nobody saw.
        (Starting(), Exit(7, 0), Exited(7, 7, 0)),
        (RESTARTING, GiveUp(), EXITED),
        (RUNNING, GiveUp(), RUNNING),
        (RUNNING, Pause("c"), PAUSED),
        (PAUSED, Unpause("c"), RUNNING),
        (Created(), Remove(False, "web"), Removing()),
        (EXITED, Remove(False, "web"), Removing()),
        (RUNNING, Remove(True, "web"), Removing()),
        (PAUSED, Remove(True, "web"), Removing()),
        (RESTARTING, Remove(True, "web"), Removing()),
        (Starting(), Remove(True, "web"), Removing()),
    ],
)
def test_moves(state: State, event: Event, result: State) -> None:
    assert advance(state, event) == result


RUNS = 'cannot remove container "web": container is running: stop the container before removing or force remove'


@pytest.mark.parametrize(
    ("state", "event", "error", "text"),
    [
        (RUNNING, Start(), NotModified, "container is already started"),
        (Starting(), Start(), NotModified, "container is already started"),
        (PAUSED, Start(), Conflict, "cannot start a paused container, try unpause instead"),
        (Removing(), Start(), Conflict, "container is marked for removal and cannot be started"),
        (RUNNING, Remove(False, "web"), Conflict, RUNS),
        (Starting(), Remove(False, "web"), Conflict, RUNS),
        (
            PAUSED,
            Remove(False, "web"),
            Conflict,
            "You cannot remove a paused container web. Unpause and then stop the container before attempting removal or force remove",
        ),
        (
            RESTARTING,
            Remove(False, "web"),
            Conflict,
            "You cannot remove a restarting container web. Stop the container before attempting removal or force remove",
        ),
        (Removing(), Remove(True, "web"), Conflict, "removal of container web is already in progress"),
        (EXITED, Pause("c0ffee"), Conflict, "container c0ffee is not running"),
        (PAUSED, Pause("c0ffee"), Conflict, "Container c0ffee is already paused"),
        (RUNNING, Unpause("c0ffee"), VchError, "Container c0ffee is not paused"),
        (EXITED, Unpause("c0ffee"), VchError, "Container c0ffee is not paused"),
    ],
)
def test_refusals(state: State, event: Event, error: type[VchError], text: str) -> None:
    with pytest.raises(error) as caught:
        advance(state, event)
    assert type(caught.value) is error
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (Created(), "created"),
        (Starting(), "created"),
        (RUNNING, "running"),
        (PAUSED, "paused"),
        (EXITED, "exited"),
        (RESTARTING, "restarting"),
        (Removing(), "removing"),
    ],
)
def test_status_words(state: State, word: str) -> None:
    assert status_word(state) == word
