"""A stored spec is read back, also one that version 0.1 has stored."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.hypervisor import Disk, Forward, MachineSpec, Nic, Share
from appliance.hypervisor.spec_json import decode_spec, encode_spec

_NIC = Nic("02:42:00:00:00:01", "10.0.0.0/24", "10.0.0.1", forwards=(Forward("tcp", "0.0.0.0", 80, "10.0.0.2", 8080),))
_SPEC = MachineSpec(
    "m1",
    256,
    2,
    (Disk(Path("/layers/a.erofs"), True), Disk(Path("/upper"), False)),
    _NIC,
    (None, Nic("02:42:00:00:00:02", bridge="br0", isolated=True)),
    (Share(Path("/data"), True, "part"),),
    "web",
    (None, Disk(Path("/joiner"), False)),
    ((Share(Path("/more"), False),),),
    True,
)


def test_a_spec_survives_json() -> None:
    assert decode_spec(json.loads(json.dumps(encode_spec(_SPEC)))) == _SPEC


def test_the_names_on_disk_are_those_of_version_0_1() -> None:
    stored = encode_spec(_SPEC)
    assert isinstance(stored, dict)
    assert {"card", "more_cards"} < stored.keys()
    assert "nic" not in stored


def test_a_spec_of_a_machine_that_takes_no_further_disks() -> None:
    """Earlier versions stored nothing of disks and shares that are plugged in later."""
    stored = encode_spec(_SPEC)
    for name in ("more_disks", "more_shares", "grows"):
        del stored[name]
    assert decode_spec(stored) == replace(_SPEC, more_disks=(), more_shares=(), grows=False)


@pytest.mark.parametrize("stored", [None, [], "spec", {}, {"id": 5}, {"id": "m1", "memory_mib": "much", "cpus": 1}])
def test_other_objects_are_refused(stored: object) -> None:
    with pytest.raises(ValueError):
        decode_spec(stored)
