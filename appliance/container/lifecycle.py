"""States of a container, frozen, and the one function that moves between them. Docker's booleans are derived in `api`."""

from dataclasses import dataclass, replace
from typing import assert_never

from appliance.errors import Conflict, NotModified, VchError


@dataclass(frozen=True, slots=True)
class Created:
    """Never started, or its only start failed (`error`, `exit_code`)."""

    error: str = ""
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Starting:
    pass


@dataclass(frozen=True, slots=True)
class Running:
    """`started` is unix ns, `pid` the guest's; `paused`: its processes are frozen."""

    started: int
    pid: int
    paused: bool = False


@dataclass(frozen=True, slots=True)
class Exited:
    """`restarting`: the restart policy will start the container again."""

    started: int
    finished: int
    exit_code: int
    oom_killed: bool = False
    error: str = ""
    restarting: bool = False


@dataclass(frozen=True, slots=True)
class Removing:
    pass


State = Created | Starting | Running | Exited | Removing


@dataclass(frozen=True, slots=True)
class Start:
    pass


@dataclass(frozen=True, slots=True)
class Started:
    at: int
    pid: int


@dataclass(frozen=True, slots=True)
class StartFailed:
    error: str
    exit_code: int
    before: State


@dataclass(frozen=True, slots=True)
class NeverStarted:
    """A start of an earlier vchd did not get far enough to count."""

    before: State


@dataclass(frozen=True, slots=True)
class Exit:
    at: int
    exit_code: int
    oom_killed: bool = False
    error: str = ""
    restarting: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The restart policy no longer applies: the container stays down."""


@dataclass(frozen=True, slots=True)
class Remove:
    force: bool
    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """`id` appears in the error text."""

    id: str


@dataclass(frozen=True, slots=True)
class Unpause:
    id: str


Event = Start | Started | StartFailed | NeverStarted | Exit | GiveUp | Remove | Pause | Unpause


def advance(state: State, event: Event) -> State:
    """Return the next state. An illegal event raises and changes nothing."""
    match event:
        case Start():
            if isinstance(state, Running) and state.paused:
                raise Conflict("cannot start a paused container, try unpause instead")
            if isinstance(state, Running | Starting):
                raise NotModified("container is already started")
            if isinstance(state, Removing):
                raise Conflict("container is marked for removal and cannot be started")
            return Starting()
        case Started(at, pid):
            return Running(at, pid)
        case StartFailed(error, code, before):
            if isinstance(before, Exited):
                return Exited(before.started, before.finished, code, error=error)
            return Created(error, code)
        case NeverStarted(before):
            return before
        case Exit(at, code, oom, error, restarting):
            started = state.started if isinstance(state, Running) else at
            return Exited(started, at, code, oom, error, restarting)
        case GiveUp():
            return replace(state, restarting=False) if isinstance(state, Exited) else state
        case Remove(force, name):
            if isinstance(state, Removing):
                raise Conflict(f"removal of container {name} is already in progress")
            if isinstance(state, Running) and state.paused and not force:
                raise Conflict(
                    f"You cannot remove a paused container {name}. "
                    "Unpause and then stop the container before attempting removal or force remove"
                )
            if isinstance(state, Exited) and state.restarting and not force:
                raise Conflict(
                    f"You cannot remove a restarting container {name}. "
                    "Stop the container before attempting removal or force remove"
                )
            if isinstance(state, Running | Starting) and not force:
                raise Conflict(
                    f'cannot remove container "{name}": container is running: stop the container before removing or force remove'
                )
            return Removing()
        case Pause(container_id):
            if not isinstance(state, Running):
                raise Conflict(f"container {container_id} is not running")
            if state.paused:
                raise Conflict(f"Container {container_id} is already paused")
            return replace(state, paused=True)
        case Unpause(container_id):
            if not isinstance(state, Running) or not state.paused:
                raise VchError(f"Container {container_id} is not paused")
            return replace(state, paused=False)
        case _:
            assert_never(event)


def status_word(state: State) -> str:
    """Docker's State.Status."""
    match state:
        case Created():
            return "created"
        case Starting():
            return "created"
        case Running():
            return "paused" if state.paused else "running"
        case Exited():
            return "restarting" if state.restarting else "exited"
        case Removing():
            return "removing"
        case _:
            assert_never(state)
