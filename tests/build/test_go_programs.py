"""Programs of Go's module proxy: the cache, and a host without Go."""

from pathlib import Path

import pytest

from build.go_programs import go_program


def test_a_program_of_the_cache_needs_no_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert go_program("tool", "example.org/tool", "1.0.0", "example.org/tool") is None
    program = tmp_path / "vch/tools/tool-1.0.0/tool"
    program.parent.mkdir(parents=True)
    program.touch()
    assert go_program("tool", "example.org/tool", "1.0.0", "example.org/tool") == program
