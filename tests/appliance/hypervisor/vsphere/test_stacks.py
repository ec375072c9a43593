"""Layers that share a disk: which layers do, and that other programs can read the partitions that we write."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from appliance.errors import HypervisorError
from appliance.hypervisor import Disk
from appliance.hypervisor.vsphere.stacks import (
    MOST_LAYERS,
    Slot,
    name_of_stack,
    size_of_stack,
    slots_of,
    uppermost,
    write_stack,
)


def _layers(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03}.erofs" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(os.urandom(4096 * (number % 3 + 1)))
    return paths


def test_where_disks_are(tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(MOST_LAYERS + 2)]
    own, volume = Disk(tmp_path / "own", False), Disk(tmp_path / "volume", False)
    few = [own, *(Disk(path, True) for path in paths[:MOST_LAYERS]), volume]
    assert slots_of(few) == [Slot(number) for number in range(MOST_LAYERS + 2)]
    assert uppermost(paths[:MOST_LAYERS]) == []
    many = [own, *(Disk(path, True) for path in paths), volume]
    assert slots_of(many)[MOST_LAYERS - 1 :] == [
        Slot(MOST_LAYERS - 1),
        Slot(MOST_LAYERS, 1),
        Slot(MOST_LAYERS, 2),
        Slot(MOST_LAYERS, 3),
        Slot(MOST_LAYERS + 1),
    ]
    assert uppermost(paths) == paths[MOST_LAYERS - 1 :]


def test_partitions_are_read_by_others(tmp_path: Path) -> None:
    layers = _layers(tmp_path, 88)
    target = tmp_path / "stack.img"
    with open(target, "wb") as out:
        write_stack(layers, out)
    assert target.stat().st_size == size_of_stack(layers)
    said = subprocess.run(["sfdisk", "--json", str(target)], capture_output=True, text=True, check=True)
    assert said.stderr == ""
    table = json.loads(said.stdout)["partitiontable"]
    assert table["label"] == "gpt"
    assert len(table["partitions"]) == 88
    data = target.read_bytes()
    for layer, partition in zip(layers, table["partitions"], strict=True):
        content = layer.read_bytes()
        begin = partition["start"] * 512
        assert data[begin : begin + len(content)] == content
        assert partition["size"] * 512 >= len(content)
    verified = subprocess.run(["sfdisk", "--verify", str(target)], capture_output=True, text=True, check=True)
    assert "No errors detected" in verified.stdout
    # The same layers give the same bytes, other layers give other bytes.
    with open(tmp_path / "again.img", "wb") as out:
        write_stack(layers, out)
    assert (tmp_path / "again.img").read_bytes() == data
    assert name_of_stack(layers) != name_of_stack(layers[:-1])


def test_more_than_there_is_room_for(tmp_path: Path) -> None:
    with pytest.raises(HypervisorError, match="at most 167 layers"):
        size_of_stack([tmp_path / "layer"] * 129)
