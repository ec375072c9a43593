"""Records of execs over a restart."""

from pathlib import Path

from appliance.container.exec_config import ExecConfig, ExecRecord
from appliance.engine.model.exec_repository import ExecRepository
from appliance.store import Database


async def test_records_of_an_earlier_daemon(tmp_path: Path) -> None:
    first = ExecRecord(container="c1", config=ExecConfig(cmd=["ls"], tty=True), began=True)
    async with Database.open(tmp_path / "state.db") as database:
        repository = ExecRepository(database)
        await repository.queue("e1", first).wait()
        await repository.queue("e2", ExecRecord(container="c2", config=ExecConfig(), exit_code=3)).wait()
        assert repository.take("c1") == {}
    async with Database.open(tmp_path / "state.db") as database:
        repository = ExecRepository(database)
        assert repository.take("c1") == {"e1": first}
        assert repository.take("c1") == {}
        repository.drop_unclaimed()
        await repository.queue("e3", first).wait()
        assert database.load("exec").keys() == {"e1", "e3"}
        repository.remove("e1")
        await repository.queue("e3", first).wait()
        assert database.load("exec").keys() == {"e3"}
