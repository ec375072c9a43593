"""Where the guest mounts the disks of a container."""

from appliance.engine.model.layout import Layout, disk_targets
from appliance.hypervisor import GuestDisk, ScsiAddress


def test_targets_are_in_the_order_of_the_disks() -> None:
    assert disk_targets("/run/tether", 2, 1) == [
        "/run/tether/upper",
        "/run/tether/layers/0",
        "/run/tether/layers/1",
        "/run/tether/disks/0",
    ]
    assert disk_targets("/base", 0, 0) == ["/base/upper"]


def test_the_first_container_has_the_tethers_own_folder() -> None:
    layout = Layout((GuestDisk(ScsiAddress(0, 0, 0)),))
    assert (layout.paths.root, layout.share_tag) == ("/run/tether/rootfs", "vch")
