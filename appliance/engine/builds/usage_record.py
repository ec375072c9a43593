"""What lay in the build cache when the last builder ended, for `docker system df`, which starts no builder."""

import msgspec
import trio

from appliance.buildkit.channel import BuildkitChannel
from appliance.buildkit.usage import DISK_USAGE, CacheRecord, parse_usage_untrusted
from appliance.store import Database

_KIND = "builder-usage"
_KEY = "records"
_SECONDS = 30.0


async def ask_usage(channel: BuildkitChannel) -> list[CacheRecord]:
    """The records of a builder that runs. BuildkitError, ProtocolError when it does not answer well."""
    answer = await channel.call(DISK_USAGE, b"", _SECONDS)
    return await trio.to_thread.run_sync(parse_usage_untrusted, answer)


class UsageRecord:
    """The saved records; none before the first builder has ended."""

    def __init__(self, database: Database) -> None:
        self._database = database
        stored = database.load(_KIND).get(_KEY)
        self.records = msgspec.json.decode(stored, type=list[CacheRecord]) if stored is not None else []

    async def save(self, records: list[CacheRecord]) -> None:
        """Replace the saved records."""
        self.records = records
        await self._database.put(_KIND, _KEY, await trio.to_thread.run_sync(msgspec.json.encode, records))
