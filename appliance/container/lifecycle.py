"""States of a container, frozen, and the one function that moves between them. Docker's booleans are derived in `api`."""

from dataclasses import dataclass
from typing import assert_never

from appliance.errors import Conflict, NotModified


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
    """`started` is unix ns, `pid` the guest's."""

    started: int
    pid: int


@dataclass(frozen=True, slots=True)
class Exited:
    started: int
    finished: int
    exit_code: int
    oom_killed: bool = False
    error: str = ""


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
class Exit:
    at: int
    exit_code: int
    oom_killed: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Remove:
    force: bool
    name: str


Event = Start | Started | StartFailed | Exit | Remove


def advance(state: State, event: Event) -> State:
    """Return the next state. An illegal event raises and changes nothing."""
    match event:
        case Start():
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
        case Exit(at, code, oom, error):
            started = state.started if isinstance(state, Running) else at
            return Exited(started, at, code, oom, error)
        case Remove(force, name):
            if isinstance(state, Removing):
                raise Conflict(f"removal of container {name} is already in progress")
            if isinstance(state, Running | Starting) and not force:
                raise Conflict(
                    f'cannot remove container "{name}": container is running: stop the container before removing or force remove'
                )
            return Removing()
        case _:
            assert_never(event)


def status_word(state: State) -> str:
    """Docker's State.Status."""
    match state:
        case Created():
            return "created"
        case Starting() | Running():
            return "running" if isinstance(state, Running) else "created"
        case Exited():
            return "exited"
        case Removing():
            return "removing"
        case _:
            assert_never(state)
