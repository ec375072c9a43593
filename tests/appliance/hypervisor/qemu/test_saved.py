"""A saved state is used only if it is complete, unchanged and fits the machine."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import HypervisorError
from appliance.hypervisor import Disk, MachineSpec, Nic
from appliance.hypervisor.qemu import saved

_NIC = Nic("02:42:00:00:00:01", "10.0.0.0/24", "10.0.0.1")
_SPEC = MachineSpec("m1", 256, 1, (Disk(Path("/upper"), False),), _NIC)


def _saved(root: Path) -> Path:
    folder, disk = root / "saved", root / "upper"
    folder.mkdir(mode=0o700)
    disk.write_bytes(b"disk")
    with saved.writing(folder) as state:
        os.write(state, b"state")
        saved.finish(folder, state, [disk], "fingerprint", True, False)
    return folder


def test_a_state_is_verified_and_its_disks_are_copied(tmp_path: Path) -> None:
    folder = _saved(tmp_path)
    manifest = saved.verify(folder)
    assert (manifest.facts, manifest.slotted, manifest.modules) == ("fingerprint", True, False)
    assert sorted(manifest.digests) == ["disk0", "state"]
    saved.copy_disks(folder, [tmp_path / "restored"])
    assert (tmp_path / "restored").read_bytes() == b"disk"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "state").write_bytes(b"other"),
        lambda folder: (folder / "disk0").unlink(),
        lambda folder: (folder / "manifest.json").write_text("{}"),
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: folder.chmod(0o777),
    ],
)
def test_a_damaged_state_is_refused(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    folder = _saved(tmp_path)
    damage(folder)
    with pytest.raises(HypervisorError, match="the saved state is damaged"):
        saved.verify(folder)


def test_a_fingerprint_ignores_what_a_restored_guest_receives_again() -> None:
    def of(
        spec: MachineSpec, accel: str = "tcg", version: str = "7.2", slotted: bool = False, modules: bool = True
    ) -> str:
        return saved.fingerprint(accel, (version, "digest"), spec, slotted, modules=modules)

    same = replace(_SPEC, id="m2", nic=replace(_NIC, mac="02:42:00:00:00:02"))
    assert of(_SPEC) == of(same)
    others = [
        of(replace(_SPEC, memory_mib=512)),
        of(replace(_SPEC, nic=None)),
        of(replace(_SPEC, disks=(*_SPEC.disks, *_SPEC.disks))),
        of(_SPEC, accel="kvm"),
        of(_SPEC, version="8.0"),
        of(_SPEC, slotted=True),
        of(_SPEC, modules=False),
    ]
    assert len({of(_SPEC), *others}) == 8
