"""What differs between an overlay's upper directory and its layers."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from protos.tether.v1.filesystem_pb2 import Change
from tether.agent import changes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: whiteouts are device nodes")
_TIME = 1_600_000_000


class Overlay:
    """Two layers, 0 below 1, and the upper directory."""

    def __init__(self, root: Path) -> None:
        self.upper, self.layers, self.init = root / "upper", (root / "layers/0", root / "layers/1"), root / "init"
        for path in (self.upper, *self.layers, self.init):
            path.mkdir(parents=True)

    def differences(self) -> list[tuple[str, str]]:
        return [(Change.Kind.Name(one.kind)[0], one.path) for one in changes.differences()]


@pytest.fixture
def overlay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Overlay:
    made = Overlay(tmp_path)
    monkeypatch.setattr(changes, "_UPPER", str(made.upper))
    monkeypatch.setattr(changes, "_LAYERS", str(tmp_path / "layers"))
    monkeypatch.setattr(changes, "_INIT", str(made.init))
    return made


def _file(path: Path, content: str = "x", *, mode: int = 0o644, ns: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(mode)
    os.utime(path, ns=(_TIME * 10**9 + ns, _TIME * 10**9 + ns))


def _whiteout(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mknod(path, stat.S_IFCHR, 0)


def test_an_empty_upper_directory_differs_in_nothing(overlay: Overlay) -> None:
    _file(overlay.layers[0] / "a")
    assert overlay.differences() == []


def test_dockers_own_files_are_no_changes_until_the_container_removes_them(overlay: Overlay) -> None:
    _file(overlay.init / ".dockerenv")
    _file(overlay.init / "etc/mtab")
    _file(overlay.upper / "etc/hosts")
    assert overlay.differences() == []
    _whiteout(overlay.upper / "etc/mtab")
    _whiteout(overlay.upper / ".dockerenv")
    assert overlay.differences() == [("D", "/.dockerenv"), ("M", "/etc"), ("D", "/etc/mtab")]


def test_added_modified_and_deleted(overlay: Overlay) -> None:
    _file(overlay.layers[0] / "dir/kept")
    _file(overlay.layers[0] / "dir/old")
    _file(overlay.layers[1] / "dir/gone")
    _file(overlay.upper / "dir/old", "changed")
    _file(overlay.upper / "dir/new")
    _whiteout(overlay.upper / "dir/gone")
    assert overlay.differences() == [("M", "/dir"), ("D", "/dir/gone"), ("A", "/dir/new"), ("M", "/dir/old")]


@pytest.mark.parametrize(
    ("upper", "differs"),
    [
        ({}, False),
        ({"mode": 0o600}, True),
        ({"content": "yy"}, True),
        # A layer's archive has whole seconds only.
        ({"ns": 5}, False),
        ({"ns": 2 * 10**9}, True),
    ],
)
def test_copied_up_is_not_changed(overlay: Overlay, upper: dict[str, object], differs: bool) -> None:
    _file(overlay.layers[0] / "f")
    _file(overlay.upper / "f", **upper)  # type: ignore[arg-type]
    assert overlay.differences() == ([("M", "/f")] if differs else [])


def test_an_opaque_directory_deletes_what_it_hides(overlay: Overlay) -> None:
    _file(overlay.layers[0] / "dir/a")
    _file(overlay.layers[0] / "dir/b")
    _file(overlay.upper / "dir/b", "new")
    os.setxattr(overlay.upper / "dir", "trusted.overlay.opaque", b"y")
    assert overlay.differences() == [("M", "/dir"), ("D", "/dir/a"), ("M", "/dir/b")]


def test_whiteouts_of_layers_hide_lower_layers(overlay: Overlay) -> None:
    _file(overlay.layers[0] / "a")
    _whiteout(overlay.layers[1] / "a")
    _file(overlay.upper / "a")
    assert overlay.differences() == [("A", "/a")]


def test_mount_points_of_the_tether_are_not_shown(overlay: Overlay) -> None:
    (overlay.upper / "dev").mkdir()
    for name in ("hosts", "hostname", "resolv.conf"):
        _file(overlay.upper / f"etc/{name}")
    assert overlay.differences() == []
    _file(overlay.upper / "etc/passwd")
    assert overlay.differences() == [("A", "/etc"), ("A", "/etc/passwd")]


def test_a_layer_has_whiteouts_for_what_is_deleted(overlay: Overlay, tmp_path: Path) -> None:
    _file(overlay.layers[0] / "dir/gone")
    _whiteout(overlay.upper / "dir/gone")
    _file(overlay.upper / "dir/new", "content")
    out = os.open(tmp_path / "layer", os.O_RDWR | os.O_CREAT)
    changes.pack_layer(out)
    os.close(out)
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "layer").read_bytes())) as layer:
        assert layer.getnames() == ["dir", "dir/.wh.gone", "dir/new"]
        file = layer.extractfile("dir/new")
        assert file is not None
        assert file.read() == b"content"
