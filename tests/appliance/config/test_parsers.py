"""Parsers of single values."""

from collections.abc import Callable

import pytest

from appliance.config.parsers import (
    Rule,
    UlimitText,
    bracketed,
    check_address,
    check_host_name,
    check_interface_address,
    check_pool,
    check_port,
    check_subnet,
    check_syslog_server,
    check_vm_cpus,
    check_vm_memory,
    ends_of,
    host_and_port,
    parse_rule,
    parse_size,
    parse_ulimit,
    parse_volume_store,
)
from appliance.errors import InvalidParameter
from appliance.roles import Role


@pytest.mark.parametrize(
    ("text", "size"),
    [("512", 512), ("1k", 1024), ("1.5G", 3 << 29), ("10 MiB", 10 << 20), ("2tb", 2 << 40), ("7b", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_rules() -> None:
    assert parse_rule("full:CN=me") == Rule(Role.FULL, "CN", "me")
    rule = parse_rule("read:OU=audit")
    assert rule.fits("me", ["ops", "audit"])
    assert not rule.fits("audit", ["ops"])


def test_hosts() -> None:
    assert host_and_port("vc.example", 443) == ("vc.example", 443)
    assert host_and_port("vc.example:8443", 443) == ("vc.example", 8443)
    assert host_and_port("[2001:db8::1]", 443) == ("2001:db8::1", 443)
    assert host_and_port("[2001:db8::1]:8443", 443) == ("2001:db8::1", 8443)
    assert (bracketed("2001:db8::1"), bracketed("vc.example")) == ("[2001:db8::1]", "vc.example")


def test_ranges() -> None:
    assert ends_of("192.0.2.9-192.0.2.12") == ("192.0.2.9", "192.0.2.12")
    assert ends_of("192.0.2.64/28") == ("192.0.2.64", "192.0.2.79")
    with pytest.raises(ValueError, match="x"):
        ends_of("x")


def test_volume_stores() -> None:
    assert parse_volume_store("fast=SSD 1") == ("fast", "SSD 1")


@pytest.mark.parametrize(
    ("parse", "good", "bad"),
    [
        (parse_size, "1", "-1"),
        (parse_rule, "read:CN=x", "write:CN=x"),
        (parse_volume_store, "a=b", "=b"),
        (check_syslog_server, "tcp+tls://[2001:db8::1]:6514", "udp://"),
        (check_syslog_server, "udp://host", "tcp://host:x"),
        (check_interface_address, "172.17.0.1/16", "172.17.0.1/33"),
        (check_subnet, "10.0.0.1/8", "10.0.0.0/33"),
        (check_address, "2001:db8::1", "host"),
        (check_vm_memory, "64", "63"),
        (check_vm_cpus, "255", "256"),
        (check_vm_cpus, "1", "0"),
        (check_pool, "1000", "1001"),
        (check_port, "65535", "65536"),
        (check_host_name, "a-b.example", "-"),
    ],
)
def test_malformed_texts_are_refused(parse: Callable[[str], object], good: str, bad: str) -> None:
    parse(good)
    with pytest.raises(InvalidParameter):
        parse(bad)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=1024:2048", UlimitText("nofile", 1024, 2048)),
        ("core=0", UlimitText("core", 0, 0)),
        ("nproc=-1", UlimitText("nproc", -1, -1)),
        ("memlock=5:-1", UlimitText("memlock", 5, -1)),
    ],
)
def test_ulimits(text: str, limit: UlimitText) -> None:
    assert parse_ulimit(text) == limit


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("nofile", "invalid ulimit argument: nofile"),
        ("as=1", "invalid ulimit type: as"),
        ("nofile=1:2:3", "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`"),
        ("nofile=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("nofile=", 'strconv.ParseInt: parsing "": invalid syntax'),
        ("nofile=2:1", "ulimit soft limit must be less than or equal to hard limit: 2 > 1"),
        ("nofile=-1:1", "ulimit soft limit must be less than or equal to hard limit: soft: -1 (unlimited), hard: 1"),
    ],
)
def test_malformed_ulimits(text: str, refusal: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        parse_ulimit(text)
    assert str(raised.value) == refusal
