"""vchd's own log as a bounded file in the data root. It survives a crash, and `vch logs` reads it."""

import logging
import logging.handlers
from pathlib import Path

# Below the data root.
LOG_NAME = "vchd.log"
_BYTES, _FILES = 8 << 20, 3
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_to(path: Path) -> None:
    """Write everything that is logged to this file, too."""
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=_BYTES, backupCount=_FILES - 1, encoding="utf-8")
    handler.setFormatter(logging.Formatter(FORMAT))
    logging.getLogger().addHandler(handler)


def parts(path: Path) -> list[Path]:
    """The existing files of a log, the oldest first."""
    older = [path.with_name(f"{path.name}.{number}") for number in range(_FILES - 1, 0, -1)]
    return [one for one in (*older, path) if one.exists()]
