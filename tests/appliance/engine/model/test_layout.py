"""Where the guest mounts the disks of a container."""

from appliance.engine.model.layout import disk_targets, first_layout, share_target, tmpfs_targets
from appliance.hypervisor import GuestDisk, ScsiAddress


def test_targets_are_in_the_order_of_the_disks() -> None:
    assert disk_targets("/run/tether", 2, 1) == [
        "/run/tether/upper",
        "/run/tether/layers/0",
        "/run/tether/layers/1",
        "/run/tether/disks/0",
    ]
    assert disk_targets("/base", 0, 0) == ["/base/upper"]


def test_tmpfs_volumes_are_numbered() -> None:
    assert tmpfs_targets("/base", ["a", "b"]) == {"a": "/base/tmpfs/0", "b": "/base/tmpfs/1"}


def test_the_first_container_has_the_tethers_own_folder() -> None:
    layout = first_layout([GuestDisk(ScsiAddress(0, 0, 0))], 2)
    assert layout.paths.root == "/run/tether/rootfs"
    assert (layout.share_tag, layout.share_target) == ("vch", "/run/tether/shares")
    assert layout.shares == ("/run/tether/shares/0", "/run/tether/shares/1")
    assert first_layout([], 0).share_tag == ""


def test_mounts_of_shares_belong_to_the_machine() -> None:
    assert share_target("vch2") == "/run/tether/shares-vch2"
