"""Rules for guests, given to a kernel and read back by nft."""

import os
import subprocess
import sys

import pytest

from appliance.network.guest_firewall import FilteredNic, messages

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs the rights of root")

_SEND = """
import socket, sys
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
    for batch in sys.argv[1:]:
        netlink.send(bytes.fromhex(batch))
"""


def _ruleset(*batches: bytes) -> list[str]:
    """What a kernel has after these, in a network namespace that goes again."""
    sent = " ".join(batch.hex() for batch in batches)
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", f"{sys.executable} -c '{_SEND}' {sent} && nft list ruleset"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [line for line in lines if line.startswith(("iifname", "oifname"))]


def _answers(nic: str) -> list[str]:
    return [f"{nic} ct state established,related accept", f"{nic} icmpv6 type 133-137 accept"]


def test_levels() -> None:
    """The rules by chain: input, forward, output."""
    come, go = 'iifname "eth0"', 'oifname "eth0"'
    through = [_answers(come)[0], f"{come} drop"]
    assert _ruleset(messages([FilteredNic("eth0", "open")])) == []
    assert _ruleset(messages([FilteredNic("eth0", "closed")])) == [
        f"{come} drop",
        f"{come} drop",
        f"{go} drop",
        f"{go} drop",
    ]
    outbound = _ruleset(messages([FilteredNic("eth0", "outbound", (("tcp", 80),))]))
    assert outbound == [*_answers(come), f"{come} drop", *through, *_answers(go)]
    ports = (("tcp", 81), ("tcp", 80), ("udp", 53), ("tcp", 443))
    assert _ruleset(messages([FilteredNic("eth0", "published", ports)])) == [
        *_answers(come),
        f"{come} tcp dport 80-81 accept",
        f"{come} tcp dport 443 accept",
        f"{come} udp dport 53 accept",
        f"{come} drop",
        *through,
        *_answers(go),
    ]
    assert _ruleset(messages([FilteredNic("eth0", "peers", peers=("192.0.2.8", "192.0.2.15"))])) == [
        *_answers(come),
        f"{come} ip saddr 192.0.2.8-192.0.2.15 accept",
        f"{come} drop",
        *through,
        f"{go} drop",
        *_answers(go),
        f"{go} ip daddr 192.0.2.8-192.0.2.15 accept",
        f"{go} drop",
    ]


def test_the_last_rules_apply() -> None:
    first, second = (
        messages([FilteredNic("eth0", "closed")]),
        messages([FilteredNic("eth1", "closed"), FilteredNic("eth0", "open")]),
    )
    assert _ruleset(first, second) == ['iifname "eth1" drop'] * 2 + ['oifname "eth1" drop'] * 2
    assert _ruleset(first, messages([])) == []


def test_as_many_ports_as_there_are() -> None:
    ports = tuple((protocol, port) for protocol in ("tcp", "udp") for port in range(1, 65536))
    rules = _ruleset(messages([FilteredNic("eth0", "published", ports)]))
    assert 'iifname "eth0" tcp dport 1-65535 accept' in rules
    assert 'iifname "eth0" udp dport 1-65535 accept' in rules
