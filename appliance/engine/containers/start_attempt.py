"""A start of a container that is under way."""

from dataclasses import dataclass, field

import trio

from appliance.container import lifecycle
from appliance.engine.containers.checkpoints import Checkpoint
from appliance.engine.model.pod import Pod
from appliance.errors import Conflict, VchError


class StartCancelled(Conflict):
    """A client stopped or removed the container while it was starting."""


@dataclass(slots=True)
class StartAttempt:
    """A start under way. `before` is the state to fall back to; `ready` is set when the outcome is known; `scope` cancels the start.

    `pod` is the pod in which the container has a seat, once it has one.
    """

    before: lifecycle.State
    checkpoint: Checkpoint | None = None
    pod: Pod | None = None
    outcome: VchError | None = None
    ready: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def answer(self, error: VchError | None = None) -> None:
        """Tell the client that waits; only the first answer counts."""
        if not self.ready.is_set():
            self.outcome = error
            self.ready.set()
