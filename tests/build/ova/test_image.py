"""Where the OVA is cached, and what is refused. `make test-ova` builds and boots a real one."""

import sys
from pathlib import Path

import pytest

from build.ova import image


def _guest(folder: Path, manifest: str) -> Path:
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    return folder


def test_the_key_changes_with_the_inputs(tmp_path: Path) -> None:
    guest, other = _guest(tmp_path / "a", "{}"), _guest(tmp_path / "b", '{"x": 1}')
    key = image.input_key(Path("base.tar"), guest)
    assert key == image.input_key(Path("base.tar"), guest)
    assert len({key, image.input_key(Path("other.tar"), guest), image.input_key(Path("base.tar"), other)}) == 3


def test_the_key_changes_with_the_image_of_the_builder(tmp_path: Path) -> None:
    guest = _guest(tmp_path / "guest", "{}")
    keys = {image.input_key(Path("base.tar"), guest)}
    for content in (b"1", b"2"):
        (tmp_path / "builder.tar").write_bytes(content)
        keys.add(image.input_key(Path("base.tar"), guest, tmp_path / "builder.tar"))
    assert len(keys) == 3


def test_a_host_without_go_leaves_the_image_of_the_builder_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert image.builder_archive(tmp_path) is None
    assert "pulls the image at the first build" in capsys.readouterr().err
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(image, "build_builder", lambda cache: cache / "made.tar")
    assert image.builder_archive(tmp_path) == tmp_path / "made.tar"


def test_only_root_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SystemExit, match="run this as root"):
        image.build(tmp_path)


def test_an_ova_in_the_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guest = _guest(tmp_path / "guest", "{}")
    made = tmp_path / "ova" / image.input_key(Path("base.tar"), guest) / f"{image.NAME}.ova"
    made.parent.mkdir(parents=True)
    made.write_bytes(b"OVA")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(image, "debian_root", lambda cache, work: Path("base.tar"))
    monkeypatch.setattr(image, "run", lambda *command: f"{guest}\n")
    monkeypatch.setattr(
        sys, "argv", ["image", "--no-builder-image", "--cache", str(tmp_path), "--out", str(tmp_path / "copy.ova")]
    )
    image.main()
    assert (tmp_path / "copy.ova").read_bytes() == b"OVA"
    assert capsys.readouterr().out == f"{tmp_path / 'copy.ova'}\n"


def test_key_and_certificate_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["image", "--sign-key", "key.pem"])
    with pytest.raises(SystemExit):
        image.main()
