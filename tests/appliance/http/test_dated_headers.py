"""The Date of answers."""

import email.utils
import time

import pytest

from appliance.http import DatedHeaders


def test_the_date_is_that_of_now() -> None:
    lines = DatedHeaders(b"Server: x\r\n")().decode()
    fixed, date, rest = lines.split("\r\n")
    assert (fixed, rest) == ("Server: x", "")
    assert date.startswith("Date: ")
    assert date.endswith(" GMT")
    assert abs(email.utils.parsedate_to_datetime(date.removeprefix("Date: ")).timestamp() - time.time()) < 5


def test_the_date_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = DatedHeaders(b"")
    monkeypatch.setattr(time, "time", lambda: 784111777.9)
    assert headers() == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    monkeypatch.setattr(time, "time", lambda: 784111778.0)
    assert headers() == b"Date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
