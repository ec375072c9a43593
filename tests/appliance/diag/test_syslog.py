"""Lines as syslog messages."""

import os
import re

import pytest

from appliance.diag.syslog import ERROR, INFORMATIONAL, Address, Formatter, fill_tag, parse_address, parse_facility
from appliance.errors import InvalidParameter

_TIME = 1_700_000_000_123_456_789


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ("", rb"<30>Nov 14 22:13:20 tag\[%d\]: a line\n"),
        ("rfc3164", rb"<30>Nov 14 22:13:20 host tag\[%d\]: a line\n"),
        ("rfc5424", rb"<30>1 2023-11-14T22:13:20Z host tag %d tag - a line\n"),
        ("rfc5424micro", rb"<30>1 2023-11-14T22:13:20.123456Z host tag %d tag - a line\n"),
    ],
)
def test_formats(form: str, pattern: bytes) -> None:
    message = Formatter(3, form, "tag", "host").message(INFORMATIONAL, _TIME, b"a line\n")
    assert re.fullmatch(pattern % os.getpid(), message)


def test_severities_and_facilities_have_names_and_numbers() -> None:
    assert Formatter(parse_facility("local7"), "", "t", "h").message(ERROR, _TIME, b"x").startswith(b"<187>")
    assert parse_facility("") == parse_facility("daemon") == parse_facility("3") == 3
    for bad in ("nonsense", "24", "-1"):
        with pytest.raises(InvalidParameter):
            parse_facility(bad)


def test_addresses() -> None:
    assert parse_address("") == Address("unixgram", "/dev/log")
    assert parse_address("udp://1.2.3.4:99") == Address("udp", host="1.2.3.4", port=99)
    assert parse_address("tcp://[::1]") == Address("tcp", host="::1", port=514)
    assert parse_address("unix:///run/s") == Address("unix", "/run/s")
    for bad in ("nonsense", "ftp://x", "udp://", "tcp://x:99999"):
        with pytest.raises(InvalidParameter):
            parse_address(bad)


def test_tags() -> None:
    assert fill_tag("{{.Name}}/{{ .ID }}", {"Name": "n", "ID": "i"}) == "n/i"
    with pytest.raises(InvalidParameter, match="is not supported"):
        fill_tag("{{.Nonsense}}", {})
