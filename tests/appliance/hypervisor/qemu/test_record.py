"""machine.json tells a restarted appliance which process is the machine's."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.hypervisor import Disk, MachineSpec
from appliance.hypervisor.qemu.record import MachineRecord

_SPEC = MachineSpec("m1", 256, 1, (Disk(Path("/upper"), False),))


def test_a_record_is_read_back(tmp_path: Path) -> None:
    record = MachineRecord.of(_SPEC, True, os.getpid())
    record.save(tmp_path)
    assert MachineRecord.load(tmp_path) == record
    assert record.running_pid == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == ["machine.json"]


def test_a_machine_of_version_0_1_has_no_modules_disk(tmp_path: Path) -> None:
    MachineRecord.of(_SPEC, False, 0).save(tmp_path)
    file = tmp_path / "machine.json"
    stored = json.loads(file.read_text())
    del stored["modules"]
    file.write_text(json.dumps(stored))
    assert not MachineRecord.load(tmp_path).modules


def test_the_fields_on_disk_are_those_of_version_0_1_and_modules(tmp_path: Path) -> None:
    MachineRecord.of(_SPEC, False, 0).save(tmp_path)
    stored = json.loads((tmp_path / "machine.json").read_text())
    assert stored.keys() == {"spec", "slotted", "pid", "start_time", "boot_id", "modules"}
    assert (stored["pid"], stored["start_time"]) == (0, "")


def test_a_pid_of_another_process_or_boot_does_not_count() -> None:
    record = MachineRecord.of(_SPEC, False, os.getpid())
    assert replace(record, start_time="1").running_pid == 0
    assert replace(record, boot_id="before").running_pid == 0
    assert replace(record, pid=0).running_pid == 0
    assert replace(record, pid=2**22 + 1).running_pid == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"spec": {"id": 5}}', "null"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(ValueError):
        MachineRecord.load(tmp_path)


def test_no_record(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        MachineRecord.load(tmp_path)
