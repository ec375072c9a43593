"""The output of commands, for people and as JSON."""

import json

import pytest

from appliance.cli.report import Report, table


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=False)
    report.step("Checking")
    report.finding("warnings", "--x", "is odd", "leave it out")
    report.progress(1, 2)
    report.result({"name": "prod"}, ["prod is ready"])
    report.failure("something broke")
    out, err = capsys.readouterr()
    assert out == "prod is ready\n"
    # A bar needs a terminal.
    assert err == "Checking\n  WARNING --x: is odd\n      leave it out\nvch: something broke\n"


def test_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(as_json=True)
    report.step("Checking")
    report.finding("problems", "--x", "is odd", "")
    report.result({"name": "prod"}, ["prod is ready"])
    out, err = capsys.readouterr()
    assert json.loads(out) == {"name": "prod", "problems": [{"setting": "--x", "text": "is odd", "remedy": ""}]}
    assert err == ""
    report.failure("something broke")
    assert json.loads(capsys.readouterr().out)["error"] == "something broke"
    report.result([1, 2], [])
    assert json.loads(capsys.readouterr().out) == [1, 2]


def test_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = table(("ID", "NAME"), [("vm-1", "prod"), ("vm-20", "x" * 100)])
    assert rows[:2] == ["ID      NAME", "vm-1    prod"]
    assert len(rows[2]) == 80
