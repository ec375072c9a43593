"""The folders of a container in its guest, outside of the container's root."""

from dataclasses import dataclass

from tether.launch.layout import ROOT, base_of

# The tether's own folder. It is the folder of the first container of a machine, too.
STATE = ROOT


@dataclass(frozen=True, slots=True)
class GuestPaths:
    """Absolute paths in the guest.

    `base` is the container's folder. `files` has hosts, hostname and resolv.conf; containers that share a network share it. `shm` is
    the file system that processes see at /dev/shm, if other containers may have it, too; "" gives the container a tmpfs of its own.
    """

    base: str = STATE
    files: str = f"{STATE}/files"
    shm: str = ""

    @property
    def root(self) -> str:
        """The container's root."""
        return f"{self.base}/rootfs"


def folder_of(container_id: str, *, first: bool) -> str:
    """The folder of a container in the guest of its machine."""
    return STATE if first else base_of(container_id)
