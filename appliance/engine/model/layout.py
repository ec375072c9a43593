"""Where the disks and shares of a container are in its guest."""

from dataclasses import dataclass, field

from appliance.container.guest_paths import GuestPaths
from appliance.hypervisor import SHARE_TAG, GuestDisk


@dataclass(frozen=True, slots=True)
class Layout:
    """What the machine has for one container.

    `disks`: the container's own disk, its layers (lowest first), its volumes. Each is a disk of the machine, or the path at which
    another container of the machine has that disk mounted already. `share_tag` is the virtiofs device with the container's shares.
    """

    disks: tuple[GuestDisk | str, ...]
    paths: GuestPaths = field(default_factory=GuestPaths)
    share_tag: str = SHARE_TAG


def disk_targets(base: str, layers: int, volumes: int) -> list[str]:
    """Where the guest mounts the disks of a container with the folder `base`, in the order of `Layout.disks`."""
    return [
        f"{base}/upper",
        *(f"{base}/layers/{number}" for number in range(layers)),
        *(f"{base}/disks/{number}" for number in range(volumes)),
    ]
