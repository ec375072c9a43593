"""Options of log drivers."""

import pytest

from appliance.config import parse_size
from appliance.errors import InvalidParameter
from appliance.logdrivers import LogLimits, buffer_bytes, driver_named, driver_names, drops_oldest


def test_limits() -> None:
    assert driver_named("").limits({}) == driver_named("json-file").limits({}) == LogLimits()
    assert driver_named("local").limits({}) == LogLimits(20 << 20, 5)
    assert driver_named("syslog").limits({}) == LogLimits(20 << 20, 5)
    assert driver_named("syslog").limits({"cache-max-size": "1m", "max-size": "9m"}) == LogLimits(1 << 20, 5)
    assert driver_named("json-file").limits({"max-size": "10m", "max-file": "3"}) == LogLimits(10 << 20, 3)
    assert driver_named("local").limits({"max-size": "-1"}) == LogLimits(0, 5)
    assert driver_named("none").limits({}) is None
    assert buffer_bytes({"max-buffer-size": "4m"}) == 4 << 20
    assert buffer_bytes({}) == 0
    assert drops_oldest({"mode": "non-blocking"})
    assert not drops_oldest({"mode": "blocking"})
    assert not drops_oldest({})


def test_the_registry() -> None:
    assert driver_names() == ["json-file", "local", "syslog", "none"]
    assert [name for name in driver_names() if not driver_named(name).readable] == ["none"]
    with pytest.raises(InvalidParameter, match=r"^logger: no log driver named 'gelf' is registered$"):
        driver_named("gelf")


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("json-file", {"nonsense": "1"}, "unknown log opt 'nonsense' for json-file log driver"),
        ("local", {"syslog-address": "udp://x"}, "unknown log opt 'syslog-address' for local log driver"),
        ("syslog", {"max-size": "1m"}, "unknown log opt 'max-size' for syslog log driver"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-file": "-2"}, "max-file cannot be less than 1"),
        ("local", {"max-file": "x"}, "invalid max-file: x"),
        ("local", {"mode": "sometimes"}, "logger: logging mode not supported: sometimes"),
        (
            "json-file",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        ("syslog", {"syslog-address": "x"}, "syslog-address should be in form proto://address, got x"),
        ("syslog", {"syslog-facility": "x"}, "invalid syslog facility"),
        ("syslog", {"syslog-format": "x"}, "Invalid syslog format"),
    ],
)
def test_what_is_refused(name: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        driver_named(name).check(options)
    assert str(caught.value) == text


@pytest.mark.parametrize("name", ["json-file", "local"])
def test_a_wrong_size_is_refused(name: str) -> None:
    for options in ({"max-size": "x"}, {"mode": "non-blocking", "max-buffer-size": "x"}):
        with pytest.raises(InvalidParameter):
            driver_named(name).check(options)


def test_options_without_effect_are_named() -> None:
    options = {"max-size": "1m", "tag": "x", "labels": "a", "mode": "non-blocking", "max-buffer-size": "1m"}
    assert driver_named("json-file").check(options) == [
        "log option labels was discarded",
        "log option tag was discarded",
    ]
    # The syslog driver uses the tag.
    assert driver_named("syslog").check({"tag": "{{.Name}}", "env": "a"}) == ["log option env was discarded"]
    assert driver_named("none").check({"anything": "at all", "mode": "x"}) == []


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("2k", 2048), ("1.5m", 3 << 19), ("1gb", 1 << 30), ("3 kib", 3072)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1q", "m"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_size(text)
