"""One prune at a time, as in moby (daemon/prune.go, daemon/images/image_prune.go, daemon/volume/service)."""

from collections.abc import Iterator
from contextlib import contextmanager

from appliance.errors import Conflict


class PruneGuard:
    """Refuses a prune while another one runs. Containers and networks share a guard; images and volumes have one each."""

    def __init__(self) -> None:
        self._running = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """The prune runs while the block lasts. Conflict when another one does."""
        if self._running:
            raise Conflict("a prune operation is already running")
        self._running = True
        try:
            yield
        finally:
            self._running = False
