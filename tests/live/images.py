"""Images for tests, made of Debian's busybox by build/busybox.py."""

import functools
import runpy
from pathlib import Path
from typing import Any

_BUILD = Path(__file__).resolve().parent.parent.parent / "build/busybox.py"


@functools.cache
def _module() -> dict[str, Any]:
    return runpy.run_path(str(_BUILD))


def busybox_layer() -> bytes:
    layer: bytes = _module()["layer"]()
    return layer


def image_archive(layers: list[bytes], config: dict[str, object], name: str) -> bytes:
    archive: bytes = _module()["archive"](layers, config, name)
    return archive


def busybox_archive() -> bytes:
    return image_archive([busybox_layer()], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, "busybox:latest")
