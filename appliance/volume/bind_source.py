"""Paths of this host as sources of bind mounts."""

import os
import stat

from appliance.container.mounts import MountRecord
from appliance.errors import InvalidParameter
from appliance.volume.host_socket import check_kind, is_socket


def check_bind(mount: MountRecord, why_no_shares: str) -> None:
    """Check the source of a bind, and make it if the mount asks for that. InvalidParameter in moby's words.

    `why_no_shares`: why machines cannot share paths of this host; "" if they can.
    """
    if is_socket(mount.source):
        check_kind(mount.source)
        return
    if why_no_shares:
        raise InvalidParameter(
            f"bind mount of {mount.source}: paths of the host cannot be shared with a machine: {why_no_shares}"
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
