"""Parts of the guest image: the cpio archive, the ELF kernel, modules in the order of loading, bytecode."""

import marshal
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from build.guest import image


def test_the_initrd_is_a_cpio_archive(tmp_path: Path) -> None:
    initrd = image.Initrd()
    initrd.add("usr/bin/tool", stat.S_IFREG | 0o755, b"program")
    initrd.add("lib64", stat.S_IFLNK | 0o777, b"lib")
    encoded = initrd.encode()
    assert len(encoded) % 4 == 0
    command = ["/bin/busybox", "cpio", "-id"]
    subprocess.run(command, input=encoded, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "usr/bin/tool").read_bytes() == b"program"
    assert (tmp_path / "usr/bin/tool").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "lib64").readlink() == Path("lib")


def _kernel(payload: bytes) -> bytes:
    """A bzImage with one sector of set-up code after the boot sector."""
    start = 2 * 512
    head = bytearray(start)
    head[0x1F1] = 1
    struct.pack_into("<II", head, 0x248, 0, len(payload))
    return bytes(head) + payload


def test_the_elf_kernel() -> None:
    elf = b"\x7fELF" + bytes(1000)
    packed = subprocess.run(["lz4", "-lc"], input=elf, capture_output=True, check=True).stdout
    assert image.elf_kernel(_kernel(packed + struct.pack("<I", len(elf)))) == elf
    with pytest.raises(SystemExit, match="payload is not lz4"):
        image.elf_kernel(_kernel(b"gzip"))


def _module(folder: Path, name: str, *needs: str) -> None:
    (folder / f"{name}.ko").write_bytes(b"\0depends=" + ",".join(needs).encode() + b"\0")


def test_modules_come_after_those_they_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, needs in (("a", ()), ("b", ("a",)), ("c-d", ("b",)), ("e", ("a",))):
        _module(tmp_path, name, *needs)
    (tmp_path / "modules.builtin").write_text("kernel/fs/inside.ko\n")
    monkeypatch.setattr(image, "listed", lambda _: ["boot b", "serial inside", "later c_d", "later e", "disk e"])
    found = image.module_closures(tmp_path)
    names = {when: [[path.stem for path in group] for group in groups] for when, groups in found.items()}
    # What boot loads is not loaded again later.
    assert names == {"boot": [["a", "b"]], "serial": [[]], "later": [["c-d"], ["e"]], "disk": [["e"]], "cd": []}
    monkeypatch.setattr(image, "listed", lambda _: ["boot missing"])
    with pytest.raises(SystemExit, match="kernel module missing is neither in the package nor built in"):
        image.module_closures(tmp_path)


def test_bytecode_without_source(tmp_path: Path) -> None:
    (tmp_path / "tool.py").write_text('"""Text."""\nassert False\nvalue = 7\n')
    initrd = image.Initrd()
    image.add_python(initrd, [(tmp_path / "tool.py", "lib/tool.py")], tmp_path)
    _, data = initrd._entries["lib/tool.pyc"]
    assert data[4:16] == bytes(12)
    names: dict[str, object] = {}
    # optimize=1: no assertions, but docstrings.
    exec(marshal.loads(data[16:]), names)
    assert (names["value"], names["__doc__"]) == (7, "Text.")


def test_the_key_changes_with_versions() -> None:
    key = image.input_key({"a": "1"}, {"b": "1"})
    assert key == image.input_key({"a": "1"}, {"b": "1"})
    assert len({key, image.input_key({"a": "2"}, {"b": "1"}), image.input_key({"a": "1"}, {"b": "2"})}) == 3


def test_versions_of_wheels_are_pinned() -> None:
    assert image.wheel_versions().keys() == set(image.WHEELS)
