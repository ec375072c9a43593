"""Where mounts come from."""

import pytest

from appliance.container.mounts import MountRecord
from appliance.engine.model.mount_plan import MountPlan, NfsVolume, PlacedMount, tmpfs_options, tmpfs_volume
from appliance.volume.store import VolumeRecord


@pytest.mark.parametrize(
    ("placed", "is_tmpfs"),
    [
        (PlacedMount(MountRecord("tmpfs", "/tmp")), True),
        (PlacedMount(MountRecord("tmpfs", "/tmp"), tmpfs=("size=1",)), True),
        (PlacedMount(MountRecord("bind", "/data"), share=0), False),
        (PlacedMount(MountRecord("volume", "/data"), disk=0), False),
        (PlacedMount(MountRecord("volume", "/data"), server=NfsVolume(0, "10.0.0.1:/", ())), False),
        (PlacedMount(MountRecord("volume", "/data"), tmpfs_volume=0), False),
    ],
    ids=["tmpfs", "options", "share", "disk", "server", "volume"],
)
def test_a_mount_without_another_source_is_a_tmpfs(placed: PlacedMount, is_tmpfs: bool) -> None:
    assert placed.is_tmpfs is is_tmpfs


def test_plans_are_compared_by_what_they_need() -> None:
    # A machine of the pool serves only a container without shares and disks.
    assert MountPlan() == MountPlan((), (), ())
    assert MountPlan((PlacedMount(MountRecord("tmpfs", "/tmp")),)) != MountPlan()


def test_options_of_tmpfs() -> None:
    mount = MountRecord("tmpfs", "/tmp", read_only=True, options={"size": "4096", "noexec": ""})
    assert tmpfs_options(mount) == ("size=4096", "noexec", "ro")
    assert tmpfs_volume(VolumeRecord("memory", 0, "tmpfs", flags="size=1m,mode=700")).options == ("size=1m", "mode=700")
    assert tmpfs_volume(VolumeRecord("memory", 0, "tmpfs")).options == ()
