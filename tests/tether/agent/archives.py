"""Archives for the tests of packing and unpacking."""

import io
import os
import tarfile
import threading
from pathlib import Path

from tether.agent.pack import pack
from tether.agent.unpack import unpack


def _pipe_from(data: bytes) -> int:
    reading, writing = os.pipe()

    def write() -> None:
        try:
            with open(writing, "wb") as file:
                file.write(data)
        except BrokenPipeError:
            pass

    threading.Thread(target=write, daemon=True).start()
    return reading


def unpack_archive(into: Path, data: bytes, *, careful: bool = False, owner: str = "") -> int:
    source = _pipe_from(data)
    mask = os.umask(0)
    try:
        return unpack(str(into), source, no_overwrite_dir_non_dir=careful, owner=owner)
    finally:
        os.umask(mask)
        os.close(source)


def pack_tree(path: str, tmp_path: Path) -> bytes:
    out = os.open(tmp_path / "archive", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        pack(path, out)
    finally:
        os.close(out)
    return (tmp_path / "archive").read_bytes()


def make_tar(*members: tarfile.TarInfo, content: bytes = b"") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def tree_of(root: Path) -> dict[str, tuple[int, int, int, int, str]]:
    """{path: (mode, uid, gid, mtime, content or target)}."""
    found = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        what = ""
        if path.is_symlink():
            what = os.readlink(path)
        elif path.is_file():
            what = path.read_text()
        found[str(path.relative_to(root))] = (info.st_mode, info.st_uid, info.st_gid, int(info.st_mtime), what)
    return found
