"""The rules of build/checks.py, each on a small tree that breaks it."""

from pathlib import Path

import pytest

from build import checks


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty tree with the rooms."""
    for room in (*checks.ROOMS, "tests"):
        (tmp_path / room).mkdir()
    monkeypatch.setattr(checks, "ROOT", tmp_path)
    return tmp_path


def _lines(rule: str) -> list[str]:
    return [f"{finding.path}:{finding.line}: {finding.text}" for finding in checks.RULES[rule]()]


def test_a_long_file(tree: Path) -> None:
    (tree / "tether/short.py").write_text("x = 1\n" * 400)
    (tree / "tether/long.py").write_text("x = 1\n" * 401)
    assert _lines("file-length") == ["tether/long.py:400: 401 lines; at most 400"]


def test_a_constructor_with_many_arguments(tree: Path) -> None:
    few = "class Few:\n    def __init__(self, a, b, c, *, d, e, f, g):\n        pass\n"
    many = "class Many:\n    def __init__(self, a, b, c, *, d, e, f, g, h):\n        pass\n"
    (tree / "build/made.py").write_text(few + many)
    assert _lines("init-arguments") == ["build/made.py:5: Many.__init__ takes 8 arguments; at most 7"]


def test_formatter_escapes(tree: Path) -> None:
    (tree / "tests/tables.py").write_text("x = 1  # fmt: skip\n" * 39)
    assert _lines("formatter-escapes") == []
    (tree / "tests/tables.py").write_text("x = 1  # fmt: skip\n" * 40)
    assert _lines("formatter-escapes") == ["tests/tables.py:40: 40 formatter escapes; at most 39"]


def test_untyped_dictionaries_below_the_api(tree: Path) -> None:
    code = "import typing as t\nx: dict[str, Any]\ny: t.Mapping[str, typing.Any]\nz: dict[str, object]\n"
    (tree / "appliance/api").mkdir()
    (tree / "appliance/api/edge.py").write_text(code)
    (tree / "appliance/below.py").write_text(code)
    assert [line.split(";")[0] for line in _lines("untyped-dictionary")] == [
        "appliance/below.py:2: dict[str, Any]",
        "appliance/below.py:3: t.Mapping[str, typing.Any]",
    ]


def test_a_module_without_a_unit_test(tree: Path) -> None:
    for name in ("tether/tested.py", "tether/untested.py", "tether/__init__.py", "build/elsewhere.py"):
        (tree / name).touch()
    (tree / "tests/tether").mkdir()
    (tree / "tests/tether/test_tested.py").touch()
    lines = [
        "# Why.",
        "build/elsewhere.py tests/tether/test_gone.py",
        "tether/tested.py tests/tether/test_tested.py",
        "tether/gone.py tests/tether/test_tested.py",
    ]
    (tree / checks.ELSEWHERE).write_text("\n".join(lines))
    assert _lines("no-unit-test") == [
        "tether/untested.py:1: there is no tests/tether/test_untested.py",
        "build/tested_elsewhere.txt:2: there is no tests/tether/test_gone.py",
    ]
    assert _lines("stale-line") == [
        "build/tested_elsewhere.txt:3: tether/tested.py has tests/tether/test_tested.py",
        "build/tested_elsewhere.txt:4: there is no tether/gone.py",
    ]


def test_circles() -> None:
    ahead = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a", "e"}, "e": {"f"}, "f": {"g"}, "g": {"e"}}
    assert checks._circles(ahead) == [["b", "c"], ["e", "f", "g"]]


def test_the_tree_has_no_import_circle() -> None:
    assert _lines("import-circle") == []


@pytest.mark.parametrize(
    "subject", ["engine: release ports when a start fails", "tests/live: wait", "api, engine: keep X", "Merge main"]
)
def test_subjects_that_pass(subject: str) -> None:
    assert checks.subject_fault(f"{subject}\n\nwhy\n") == ""


@pytest.mark.parametrize(
    "subject", ["Leases that are taken back", "engine:no space", "engine: a stop.", "x: " + "y" * 99]
)
def test_subjects_that_do_not(subject: str) -> None:
    assert checks.subject_fault(subject) != ""
