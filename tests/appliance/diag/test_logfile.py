"""vchd's own log file."""

import logging
from pathlib import Path

import pytest

from appliance.diag import logfile


def test_what_is_logged_is_in_a_bounded_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logfile, "_BYTES", 2000)
    root = logging.getLogger()
    before = list(root.handlers)
    path = tmp_path / logfile.LOG_NAME
    logfile.log_to(path)
    (handler,) = [one for one in root.handlers if one not in before]
    try:
        for number in range(200):
            logging.getLogger("appliance.test").warning("line %d", number)
    finally:
        root.removeHandler(handler)
        handler.close()
    found = logfile.parts(path)
    assert [one.name for one in found] == ["vchd.log.2", "vchd.log.1", "vchd.log"]
    assert sum(one.stat().st_size for one in found) <= 6000
    text = "".join(one.read_text() for one in found)
    assert text.endswith("WARNING appliance.test: line 199\n")
    # The oldest first.
    numbers = [int(line.rsplit(" ", 1)[1]) for line in text.splitlines()]
    assert numbers == sorted(numbers)


def test_parts_of_a_log_that_is_not_there(tmp_path: Path) -> None:
    assert logfile.parts(tmp_path / "vchd.log") == []
