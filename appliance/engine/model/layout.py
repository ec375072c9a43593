"""Where the disks and shares of a container are in its guest."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from appliance.container.guest_paths import STATE, GuestPaths
from appliance.hypervisor import SHARE_TAG, GuestDisk

_FIRST = GuestPaths()


@dataclass(frozen=True, slots=True)
class Layout:
    """What the machine has for one container.

    `disks`: the container's own disk, its layers (lowest first), its volumes. Each is a disk of the machine, or the path at which
    another container of the machine has that disk mounted already. `shares`: the path of each of the container's shares. The virtiofs
    device `share_tag` is to be mounted for them at `share_target`; "" when all of them are mounted already. `tmpfs`: where another
    container of the machine has tmpfs volumes mounted already, by the volume's name.
    """

    disks: tuple[GuestDisk | str, ...]
    paths: GuestPaths = field(default_factory=GuestPaths)
    shares: tuple[str, ...] = ()
    share_tag: str = ""
    tmpfs: Mapping[str, str] = field(default_factory=dict)

    @property
    def share_target(self) -> str:
        """Where the guest mounts the device `share_tag`."""
        return share_target(self.share_tag)


def first_layout(disks: Sequence[GuestDisk], shares: int, paths: GuestPaths = _FIRST) -> Layout:
    """The layout of the container that a machine was made for, with this number of shares."""
    places = tuple(f"{share_target(SHARE_TAG)}/{number}" for number in range(shares))
    return Layout(tuple(disks), paths, places, SHARE_TAG if shares else "")


def share_target(tag: str) -> str:
    """Where the guest mounts a virtiofs device. The mounts last as long as the machine, whichever container has brought them."""
    return f"{STATE}/shares" if tag == SHARE_TAG else f"{STATE}/shares-{tag}"


def tmpfs_target(base: str, number: int) -> str:
    """Where the guest mounts a tmpfs volume of a container with the folder `base`."""
    return f"{base}/tmpfs/{number}"


def tmpfs_targets(base: str, names: Iterable[str]) -> dict[str, str]:
    """Where the guest mounts these tmpfs volumes of a container, by name, in the order of `MountPlan.tmpfs_volumes`."""
    return {name: tmpfs_target(base, number) for number, name in enumerate(names)}


def disk_targets(base: str, layers: int, volumes: int) -> list[str]:
    """Where the guest mounts the disks of a container with the folder `base`, in the order of `Layout.disks`."""
    return [
        f"{base}/upper",
        *(f"{base}/layers/{number}" for number in range(layers)),
        *(f"{base}/disks/{number}" for number in range(volumes)),
    ]
