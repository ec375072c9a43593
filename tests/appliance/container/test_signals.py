"""Signals by number and by name."""

import pytest

from appliance.container.signals import parse_signal
from appliance.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1", 1),
        ("64", 64),
        ("KILL", 9),
        ("SIGKILL", 9),
        ("sigterm", 15),
        ("Usr1", 10),
        ("CHLD", 17),
        ("CLD", 17),
        ("IO", 29),
        ("POLL", 29),
        ("STKFLT", 16),
        ("WINCH", 28),
        ("RTMIN", 34),
        ("RTMIN+15", 49),
        ("SIGRTMAX-14", 50),
        ("RTMAX-1", 63),
        ("RTMAX", 64),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "65", "-9", "SIG", "SIGSIGKILL", "NOPE", "RTMIN+16", "RTMAX-15", "_DFL", "9x"]
)
def test_texts_that_name_no_signal(text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_signal(text)
    assert str(caught.value) == f"invalid signal: {text}"
