"""The build cache: what clients prune of it without BuildKit's API."""

from collections.abc import Callable

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.requests import PRUNE, prune_request, pruned_untrusted
from appliance.container.build_request import PruneRequest
from appliance.container.event import Event
from appliance.engine.builds.contracts import Builders
from appliance.engine.model.events import EventBus
from appliance.errors import InvalidParameter, VchError
from tether.rpc.status import Code

_MOST_NAMED = 100_000


class BuildCache:
    """`exists` says whether a builder was ever made: before that there is no cache, and a prune starts none."""

    def __init__(self, builders: Builders, events: EventBus, exists: Callable[[], bool]) -> None:
        self._builders = builders
        self._events = events
        self._exists = exists

    async def prune(self, request: PruneRequest) -> tuple[list[str], int]:
        """Remove records: their IDs, and their bytes in all. A builder that is off is started.

        InvalidParameter for filters that BuildKit does not understand, Unavailable when the builder cannot be started.
        """
        removed: list[str] = []
        size = 0
        if self._exists():
            try:
                async with self._builders.use() as lease, lease.channel.stream(PRUNE, prune_request(request)) as stream:
                    while batch := await stream.receive():
                        for raw in batch:
                            record, record_size = pruned_untrusted(raw)
                            size += max(0, record_size)
                            if len(removed) < _MOST_NAMED:
                                removed.append(record)
            except BuildkitError as error:
                kind = InvalidParameter if error.code is Code.INVALID_ARGUMENT else VchError
                raise kind(f"failed to prune build cache: {error.text}") from error
        self._events.publish(Event("builder", "prune", "", {"reclaimed": str(size)}))
        return removed, size
