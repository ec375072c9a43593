"""The states of the builder, and how they follow one another. Pure: times are trio's, in seconds."""

from dataclasses import dataclass
from typing import assert_never


@dataclass(frozen=True, slots=True)
class Absent:
    """No builder runs."""


@dataclass(frozen=True, slots=True)
class Starting:
    """The builder starts; so many builds wait for it."""

    users: int


@dataclass(frozen=True, slots=True)
class Ready:
    """buildkitd answers, and so many leases are out."""

    users: int


@dataclass(frozen=True, slots=True)
class Idle:
    """buildkitd answers and has no lease. It is ended at this time."""

    until: float


@dataclass(frozen=True, slots=True)
class Ending:
    """The builder is being ended; the next build starts another one."""


State = Absent | Starting | Ready | Idle | Ending


@dataclass(frozen=True, slots=True)
class Join:
    """A build wants a lease."""


@dataclass(frozen=True, slots=True)
class Leave:
    """A lease was given back, or the build no longer waits. Without further users the builder is ended at `idle_until`."""

    idle_until: float


@dataclass(frozen=True, slots=True)
class Answers:
    """buildkitd answers its first call."""

    idle_until: float


@dataclass(frozen=True, slots=True)
class End:
    """The builder is to be ended: it was idle for long enough, or its start failed, or its machine is gone."""


@dataclass(frozen=True, slots=True)
class Gone:
    """The builder has ended."""


Event = Join | Leave | Answers | End | Gone


def advance(state: State, event: Event) -> State:
    """The next state. ValueError for an event that cannot occur in the state, such as a lease of a builder that ends."""
    match event:
        case Join():
            match state:
                case Absent():
                    return Starting(1)
                case Starting(users):
                    return Starting(users + 1)
                case Ready(users):
                    return Ready(users + 1)
                case Idle():
                    return Ready(1)
        case Leave(idle_until):
            match state:
                case Starting(users) if users:
                    return Starting(users - 1)
                case Ready(users):
                    return Ready(users - 1) if users > 1 else Idle(idle_until)
                case Absent() | Ending():
                    # The builder ended under the lease.
                    return state
        case Answers(idle_until):
            match state:
                case Starting(users):
                    return Ready(users) if users else Idle(idle_until)
                case Absent():
                    # A restarted vchd has found it.
                    return Idle(idle_until)
        case End():
            return Ending()
        case Gone():
            return Absent()
        case _:
            assert_never(event)
    raise ValueError(f"{event} in state {state}")
