"""What is stored of the builder."""

from pathlib import Path

from appliance.engine.builds.machine_record import MachineRecord, load_machine_record, save_machine_record
from appliance.store import Database


async def test_the_record_outlives_vchd(tmp_path: Path) -> None:
    record = MachineRecord("id", 5000, "cache", 2, True, 17)
    async with Database.open(tmp_path / "state.db") as database:
        assert load_machine_record(database) == MachineRecord()
        await save_machine_record(database, record)
    async with Database.open(tmp_path / "state.db") as database:
        assert load_machine_record(database) == record
        # A later version may store more.
        await database.put("builder", "machine", b'{"container":"id","unknown":[1]}')
    async with Database.open(tmp_path / "state.db") as database:
        assert load_machine_record(database) == MachineRecord("id")
