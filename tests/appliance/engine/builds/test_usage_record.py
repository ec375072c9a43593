"""The saved records of the build cache."""

from pathlib import Path

from appliance.buildkit.usage import CacheRecord
from appliance.engine.builds.usage_record import UsageRecord, ask_usage
from appliance.store import Database
from tests.appliance.buildkit.served import fake_channel
from tests.appliance.engine.builds.builder import BUILDKIT


async def test_records_are_kept(tmp_path: Path) -> None:
    async with fake_channel(BUILDKIT) as channel:
        records = await ask_usage(channel)
    assert records == [CacheRecord("one", "regular", "", 7, 0, 0, 0, False, False, False)]
    async with Database.open(tmp_path / "state.db") as database:
        record = UsageRecord(database)
        assert record.records == []
        await record.save(records)
    async with Database.open(tmp_path / "state.db") as database:
        assert UsageRecord(database).records == records
