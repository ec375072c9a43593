"""How much a file system has left for what clients, registries and guests send."""

import os
from pathlib import Path

_MOST_RESERVED = 256 << 20
_RESERVED_PART = 20


def room_on(folder: Path) -> int:
    """Bytes that may be written below `folder`. A reserve stays for the state of vchd, without which no container can end."""
    found = os.statvfs(folder)
    size, free = found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return max(0, free - min(_MOST_RESERVED, size // _RESERVED_PART))
