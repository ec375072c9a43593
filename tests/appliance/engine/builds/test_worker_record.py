"""What the last builder said of itself, after a restart of vchd, too."""

from pathlib import Path

import pytest

from appliance.buildkit.worker import INFO, LIST_WORKERS, first_info
from appliance.engine.builds.worker_record import WorkerRecord
from appliance.errors import ProtocolError
from appliance.store import Database
from protos.buildkit.v1 import control_pb2
from tests.appliance.buildkit.served import fake_channel
from tests.appliance.engine.builds.builder import answering

_GATEWAY = "org.mobyproject.buildkit.worker.moby.host-gateway-ip"


def _labels(record: WorkerRecord) -> dict[str, str]:
    (worker,) = control_pb2.WorkersAnswer.FromString(record.workers()).workers
    return dict(worker.labels)


async def test_the_last_answers_are_kept(tmp_path: Path) -> None:
    answer = control_pb2.WorkersAnswer(workers=[control_pb2.Worker(id="w", labels={"a": "b"})]).SerializeToString()
    info = control_pb2.InfoAnswer(version=control_pb2.Version(version="v9")).SerializeToString()
    async with Database.open(tmp_path / "state.db") as database:
        record = WorkerRecord(database, lambda: "")
        assert record.info() == first_info()
        assert _GATEWAY not in _labels(record)
        async with fake_channel({LIST_WORKERS: answering(answer)}) as channel:
            await record.update(channel, info)
        assert (_labels(record), record.info()) == ({"a": "b"}, info)
    async with Database.open(tmp_path / "state.db") as database:
        record = WorkerRecord(database, lambda: "10.1.2.3")
        assert (_labels(record), record.info()) == ({"a": "b", _GATEWAY: "10.1.2.3"}, info)
        # Unusable answers do not replace usable ones.
        async with fake_channel({LIST_WORKERS: answering(b""), INFO: answering(b"")}) as channel:
            with pytest.raises(ProtocolError):
                await record.update(channel, b"")
        large = control_pb2.WorkersAnswer(workers=[control_pb2.Worker(id="w" * (1 << 20))]).SerializeToString()
        async with fake_channel({LIST_WORKERS: answering(large)}) as channel:
            with pytest.raises(ProtocolError, match=r"ListWorkers has [0-9]+ bytes"):
                await record.update(channel, info)
        assert (_labels(record), record.info()) == ({"a": "b", _GATEWAY: "10.1.2.3"}, info)
