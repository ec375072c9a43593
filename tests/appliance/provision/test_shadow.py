"""The password of root on a read-only root file system."""

import subprocess
from pathlib import Path

import pytest

from appliance.provision import shadow


def test_a_hash_is_of_sha512_and_salted() -> None:
    first, second = shadow.hash_of("s3cret"), shadow.hash_of("s3cret")
    assert first.startswith("$6$")
    assert first != second


def test_only_roots_line_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tmp_path / "original"
    original.write_text("root:*:1:0:99999:7:::\nvch:!:2:0:99999:7:::\n")
    commands: list[list[str]] = []
    monkeypatch.setattr(shadow, "_SHADOW", original)
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    shadow.set_root_password("$6$x$y", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "root:$6$x$y:19000:0:99999:7:::\nvch:!:2:0:99999:7:::\n"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o600
    assert commands == [["mount", "--bind", str(tmp_path / "copy"), str(original)]]
