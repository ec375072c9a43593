"""Sources of bind mounts: paths of this host, and the daemon's own API."""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.container.mounts import MountRecord
from appliance.errors import InvalidParameter
from appliance.volume.host_socket import check_kind, is_socket

# Where programs in a container look for the API. A client of another host sends its own host's path as the source.
_API_TARGETS = ("/var/run/docker.sock", "/run/docker.sock")
# Binds of these paths, read-only, mean the modules and headers of the guest's kernel: the host runs another kernel.
_OF_THE_KERNEL = ("/lib/modules", "/usr/src")


@dataclass(frozen=True, slots=True)
class BindSources:
    """What bind mounts may name.

    `why_no_shares`: why machines cannot share paths of this host; "" if they can. `api_sockets`: the unix sockets at which the daemon
    listens.
    """

    why_no_shares: str = ""
    api_sockets: Sequence[Path] = ()

    def is_api(self, mount: MountRecord, *, scoped: bool) -> bool:
        """Whether a bind mount leads to the daemon's own API.

        It does when its source is one of the daemon's sockets, and when the source does not exist here and programs expect Docker's
        socket at the target. A socket that exists here may be another daemon's: no client with a scope may use that, so Docker's path
        means the API for such a client, as it does where the client runs.
        """
        if mount.type != "bind":
            return False
        if not os.path.lexists(mount.source) or (scoped and mount.source in _API_TARGETS):
            return mount.destination in _API_TARGETS
        return os.path.realpath(mount.source) in {os.path.realpath(path) for path in self.api_sockets}

    def check(self, mount: MountRecord) -> None:
        """Check the source of a bind, and make it if the mount asks for that. InvalidParameter in moby's words."""
        if is_socket(mount.source):
            check_kind(mount.source)
            return
        if self.why_no_shares:
            raise InvalidParameter(
                f"bind mount of {mount.source}: paths of the host cannot be shared with a machine: {self.why_no_shares}"
            )
        if mount.create:
            try:
                if not os.path.lexists(mount.source):
                    os.makedirs(mount.source, exist_ok=True)
            except OSError as error:
                raise InvalidParameter(
                    f"error while creating mount source path '{mount.source}': {error.strerror}"
                ) from error
        try:
            mode = os.stat(mount.source).st_mode
        except OSError as error:
            raise InvalidParameter(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
            ) from error
        if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
            raise InvalidParameter(
                f'invalid mount config for type "bind": {mount.source} is neither a directory nor a file, and a machine has a '
                "kernel of its own: pipes and devices of the host cannot be shared with it"
            )


def is_of_the_kernel(mount: MountRecord) -> bool:
    """Whether a mount means files of the guest's kernel."""
    return mount.type == "bind" and mount.read_only and mount.source in _OF_THE_KERNEL
