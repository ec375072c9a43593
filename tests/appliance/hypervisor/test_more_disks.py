"""Places of disks that are plugged in later: kept by their disk, used again when they are free."""

from pathlib import Path

import pytest

from appliance.errors import HypervisorError
from appliance.hypervisor import RELEASED, Disk, MachineSpec
from appliance.hypervisor.more_disks import find_disks, used_places, with_disks, without_first_disks, without_places

_LAYER, _UPPER = Disk(Path("/layer"), True), Disk(Path("/upper"), False)
_SPEC = MachineSpec("m1", 256, 1, (Disk(Path("/first"), False), _LAYER))


def _layers(count: int) -> list[Disk]:
    return [Disk(Path(f"/layer{number}"), True) for number in range(count)]


def test_a_free_place_is_used_again_and_the_other_disks_keep_theirs() -> None:
    spec, places = with_disks(_SPEC, _layers(3), 4)
    assert places == [0, 1, 2]
    spec = without_places(spec, [0, 2])
    # A free place at the end is not kept.
    assert spec.more_disks == (None, _layers(2)[1])
    assert used_places(spec) == 1
    spec, places = with_disks(spec, [_UPPER, _LAYER], 4)
    assert places == [0, 2]
    assert spec.more_disks == (_UPPER, _layers(2)[1], _LAYER)
    assert spec.disks == _SPEC.disks


def test_too_many_disks_are_refused_by_their_number() -> None:
    spec, _ = with_disks(_SPEC, _layers(3), 4)
    with pytest.raises(HypervisorError, match="has places for 1 more disks, and 2 are needed"):
        with_disks(spec, [_UPPER, _LAYER], 4)


def test_a_writable_disk_is_never_twice_in_a_machine() -> None:
    with pytest.raises(HypervisorError, match="has the disk /first already"):
        with_disks(_SPEC, [_SPEC.disks[0]], 4)
    spec, _ = with_disks(_SPEC, [_UPPER], 4)
    with pytest.raises(HypervisorError, match="has the disk /upper already"):
        with_disks(spec, [_UPPER], 4)
    # A disk of the machine's own that was released comes back.
    with_disks(without_first_disks(_SPEC, [0]), [_SPEC.disks[0]], 4)


def test_disks_are_found_by_their_paths() -> None:
    spec, _ = with_disks(_SPEC, [_UPPER, *_layers(1)], 4)
    assert find_disks(spec, {Path("/upper"), Path("/first"), Path("/none")}) == ([0], [0])
    spec = without_first_disks(spec, [0])
    assert spec.disks == (Disk(RELEASED, False), _LAYER)
    assert find_disks(spec, {Path("/first"), RELEASED}) == ([], [])
