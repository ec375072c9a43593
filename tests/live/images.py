"""Images for tests, made of Debian's busybox by build/busybox.py."""

import functools
import io
import runpy
import tarfile
from pathlib import Path
from typing import Any

_BUILD = Path(__file__).resolve().parent.parent.parent / "build/busybox.py"


@functools.cache
def _module() -> dict[str, Any]:
    return runpy.run_path(str(_BUILD))


def busybox_layer() -> bytes:
    layer: bytes = _module()["layer"]()
    return layer


def layer_with(name: str, size: int = 0, *, content: bytes = b"", mode: int = 0o644) -> bytes:
    """A layer with a single file: `content`, or `size` zeros, or else its own name as the only line."""
    content = content or bytes(size) or f"{name}\n".encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        member.mode = mode
        archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def image_archive(layers: list[bytes], config: dict[str, object], name: str) -> bytes:
    archive: bytes = _module()["archive"](layers, config, name)
    return archive


def busybox_archive() -> bytes:
    return image_archive([busybox_layer()], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, "busybox:latest")
