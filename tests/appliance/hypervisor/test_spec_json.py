"""A stored spec is read back, also one that version 0.1 has stored."""

import json
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
)


def test_a_spec_survives_json() -> None:
    assert decode_spec(json.loads(json.dumps(encode_spec(_SPEC)))) == _SPEC


def test_the_names_on_disk_are_those_of_version_0_1() -> None:
    stored = encode_spec(_SPEC)
    assert isinstance(stored, dict)
    assert {"card", "more_cards"} < stored.keys()
    assert "nic" not in stored


@pytest.mark.parametrize("stored", [None, [], "spec", {}, {"id": 5}, {"id": "m1", "memory_mib": "much", "cpus": 1}])
def test_other_objects_are_refused(stored: object) -> None:
    with pytest.raises(ValueError):
        decode_spec(stored)
