"""Where the parts of a container are in its guest: the appliance names these paths, and the tether makes them.

The first container of a machine has them in ROOT, each further container in a directory of its own.
"""

ROOT = "/run/tether"


def base_of(container_id: str) -> str:
    """The directory of a further container, with the root of its process in `rootfs`, its state files in `files`, and so on."""
    return f"{ROOT}/containers/{container_id}"
