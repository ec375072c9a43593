"""What the last builder said of itself: buildx asks for it before each build, and gives up after 20 s, which a cold start may take."""

from collections.abc import Callable

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.rewrite import rewrite_workers
from appliance.buildkit.worker import (
    INFO,
    LIST_WORKERS,
    check_workers_untrusted,
    first_info,
    first_workers,
    version_untrusted,
)
from appliance.errors import ProtocolError
from appliance.store import Database

_KIND = "builder-worker"
_MOST_BYTES = 1 << 20
_SECONDS = 30.0


class WorkerRecord:
    """The answers of Control/ListWorkers and Control/Info, as bytes; of a builder like ours before the first builder has run.

    `gateway` returns the address that RUNs know as host-gateway, "" while it is not known.
    """

    def __init__(self, database: Database, gateway: Callable[[], str]) -> None:
        self._database = database
        self._gateway = gateway
        stored = database.load(_KIND)
        self._workers = stored.get(LIST_WORKERS) or first_workers()
        self._info = stored.get(INFO) or first_info()

    def workers(self) -> bytes:
        """The answer of ListWorkers, as clients get it."""
        return rewrite_workers(self._workers, self._gateway())

    def info(self) -> bytes:
        """The answer of Info."""
        return self._info

    async def update(self, channel: BuildkitChannel, info: bytes) -> None:
        """Store the answers of a builder that runs. `info` is its answer of Info. BuildkitError, ProtocolError when they are not usable."""
        workers = await channel.call(LIST_WORKERS, b"", _SECONDS)
        check_workers_untrusted(workers)
        version_untrusted(info)
        changes = []
        for path, old, new in ((LIST_WORKERS, self._workers, workers), (INFO, self._info, info)):
            if len(new) > _MOST_BYTES:
                # Each client that lists builders gets these bytes.
                raise ProtocolError(f"the answer of BuildKit to {path} has {len(new)} bytes, more than {_MOST_BYTES}")
            if new != old:
                changes.append(self._database.queue(_KIND, path, new))
        self._workers, self._info = workers, info
        for change in changes:
            await change.wait()
