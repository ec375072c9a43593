"""Where a container's mounts come from: shares and disks of its machine, NFS servers, tmpfs volumes, tmpfs, sockets of the host."""

from dataclasses import dataclass, replace

import trio

from appliance.container.mounts import MountRecord
from appliance.errors import InvalidParameter
from appliance.guest import GuestSocket
from appliance.hypervisor import Disk, Share
from appliance.volume.store import VolumeRecord


@dataclass(frozen=True, slots=True)
class NfsVolume:
    """A volume on an NFS 4 server. `device` is `ADDRESS:PATH` and `options` the kernel's, as in mount(8).

    `number` is unique in its container and names the directory in the guest where it is mounted.
    """

    number: int
    device: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TmpfsVolume:
    """A volume that is a tmpfs in the machine. The containers of a machine share it by its name. `options` as in mount(8)."""

    name: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PlacedMount:
    """A mount of a container and its source: the machine's share or volume disk of that number, a server, a socket, or else a tmpfs.

    `guest` is a path of the guest itself, such as /lib/modules of its kernel. `tmpfs_volume` is the number of a tmpfs volume;
    `tmpfs` has the options of a tmpfs that only this mount shows.
    """

    mount: MountRecord
    share: int = -1
    disk: int = -1
    tmpfs: tuple[str, ...] = ()
    server: NfsVolume | None = None
    socket: GuestSocket | None = None
    guest: str = ""
    tmpfs_volume: int = -1

    @property
    def is_tmpfs(self) -> bool:
        """Whether the mount is a tmpfs of its own."""
        sources = (self.server is not None, self.socket is not None, self.guest)
        return max(self.share, self.disk, self.tmpfs_volume) < 0 and not any(sources)


@dataclass(frozen=True, slots=True)
class MountPlan:
    """All mounts of a container, with the shares, disks and tmpfs volumes that its machine needs for them."""

    placed: tuple[PlacedMount, ...] = ()
    shares: tuple[Share, ...] = ()
    disks: tuple[Disk, ...] = ()
    tmpfs_volumes: tuple[TmpfsVolume, ...] = ()

    def numbered_from(self, first: int) -> "MountPlan":
        """The same plan with numbers of sockets that begin at `first`, because containers of one machine have different numbers."""
        placed = [
            replace(one, socket=replace(one.socket, number=first + one.socket.number))
            if one.socket is not None
            else one
            for one in self.placed
        ]
        return replace(self, placed=tuple(placed))

    @property
    def sockets(self) -> list[GuestSocket]:
        """The sockets at which the guest listens."""
        return [placed.socket for placed in self.placed if placed.socket is not None]


async def nfs_volume(number: int, record: VolumeRecord) -> NfsVolume:
    """An NFS volume with its server's IP address, because the guest's kernel resolves no names. InvalidParameter if the name has none."""
    server, _, path = record.device.rpartition(":")
    try:
        found = await trio.socket.getaddrinfo(server, 2049, type=trio.socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidParameter(f"failed to mount local volume: error resolving {server}: {error}") from error
    address = str(found[0][4][0])
    shown = f"[{address}]" if ":" in address else address
    return NfsVolume(number, f"{shown}:{path}", (*record.flags.split(","), f"addr={address}"))


def tmpfs_volume(record: VolumeRecord) -> TmpfsVolume:
    """The volume of a record of the kind TMPFS."""
    return TmpfsVolume(record.name, tuple(filter(None, record.flags.split(","))))


def tmpfs_options(mount: MountRecord) -> tuple[str, ...]:
    """The options of a mount of the type tmpfs, as in mount(8)."""
    words = [f"{name}={value}" if value else name for name, value in mount.options.items()]
    return (*words, *(("ro",) if mount.read_only else ()))
