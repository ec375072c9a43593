"""Firewall rules for a guest's NICs on external networks. The guest's own kernel applies them.

A guest has no nft. It receives a whole transaction as messages of nfnetlink (linux/netfilter/nf_tables.h), and passes the
messages to its kernel. A transaction replaces all rules of the one before.
"""

import ipaddress
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from pyroute2.netlink import NLM_F_REQUEST
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    Meta,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)
from pyroute2.nftables.expressions import genex, verdict

TABLE = "vch"

_INET, _BEGIN, _END = 1, 0x10, 0x11
_CREATE, _APPEND = 0x400, 0x800
_HOOKS = {"input": 1, "forward": 2, "output": 3}
# linux/netfilter/nf_conntrack_common.h: 1 << (IP_CT_ESTABLISHED + 1), 1 << (IP_CT_RELATED + 1).
_ESTABLISHED_RELATED = 1 << 1 | 1 << 2
_PROTOCOLS = {"tcp": 6, "udp": 17}
_ICMPV6, _IPV4 = 58, 2
# From router solicitations to redirects (RFC 4861): IPv6 does not work without them.
_NEIGHBOURS = (133, 137)
_NETWORK, _TRANSPORT = 1, 2


class Expression(TypedDict):
    """An expression of a rule, as pyroute2 encodes it."""

    attrs: list[tuple[str, object]]


@dataclass(frozen=True, slots=True)
class FilteredNic:
    """A NIC by its name in the guest. `level` is closed, outbound, peers, published or open.

    `ports`, each as (protocol, number), are open with level published; `peers`, the first and the last address, with peers.
    """

    interface: str
    level: str
    ports: tuple[tuple[str, int], ...] = ()
    peers: tuple[str, str] = ("", "")


def messages(nics: Iterable[FilteredNic]) -> bytes:
    """The transaction. Without NICs it removes all rules."""
    batch = _Batch()
    batch.add(nft_table_msg, NFT_MSG_NEWTABLE, _CREATE, NFTA_TABLE_NAME=TABLE)
    batch.add(nft_table_msg, NFT_MSG_DELTABLE, 0, NFTA_TABLE_NAME=TABLE)
    filtered = [nic for nic in nics if nic.level != "open"]
    if filtered:
        batch.add(nft_table_msg, NFT_MSG_NEWTABLE, _CREATE, NFTA_TABLE_NAME=TABLE)
        for name, number in _HOOKS.items():
            hook = {"attrs": [("NFTA_HOOK_HOOKNUM", number), ("NFTA_HOOK_PRIORITY", 0)]}
            batch.add(
                nft_chain_msg,
                NFT_MSG_NEWCHAIN,
                _CREATE,
                NFTA_CHAIN_TABLE=TABLE,
                NFTA_CHAIN_NAME=name,
                NFTA_CHAIN_HOOK=hook,
                NFTA_CHAIN_TYPE="filter",
            )
        for nic in filtered:
            for chain, expressions in _rules(nic):
                batch.add(
                    nft_rule_msg,
                    NFT_MSG_NEWRULE,
                    _CREATE | _APPEND,
                    NFTA_RULE_TABLE=TABLE,
                    NFTA_RULE_CHAIN=chain,
                    NFTA_RULE_EXPRESSIONS=list(expressions),
                )
    return batch.close()


def _rules(nic: FilteredNic) -> Iterable[tuple[str, Sequence[Expression]]]:
    """The rules of a NIC in order, each with its chain."""
    inward, outward = _interface("NFT_META_IIFNAME", nic.interface), _interface("NFT_META_OIFNAME", nic.interface)
    accept, drop = verdict(1), verdict(0)
    if nic.level != "closed":
        for chain, interface in (("input", inward), ("output", outward)):
            yield chain, [*interface, *_answers(), *accept]
            yield (
                chain,
                [*interface, *_protocol(_ICMPV6), *_between(_TRANSPORT, 0, _bytes_of(1, *_NEIGHBOURS)), *accept],
            )
    if nic.level == "published":
        for protocol, first, last in _ranges(nic.ports):
            port = _between(_TRANSPORT, 2, _bytes_of(2, first, last))
            yield "input", [*inward, *_protocol(_PROTOCOLS[protocol]), *port, *accept]
    if nic.level == "peers":
        low, high = (ipaddress.IPv4Address(address).packed for address in nic.peers)
        # In an IPv4 header the source is at byte 12, the destination at byte 16.
        for chain, interface, offset in (("input", inward, 12), ("output", outward, 16)):
            yield chain, [*interface, *_family(_IPV4), *_between(_NETWORK, offset, (low, high)), *accept]
    yield "input", [*inward, *drop]
    # The guest forwards packets, as Docker's containers do: nobody may pass a filtered NIC by routing through the container.
    if nic.level != "closed":
        yield "forward", [*inward, *_answers(), *accept]
    yield "forward", [*inward, *drop]
    if nic.level in ("closed", "peers"):
        yield "forward", [*outward, *drop]
        yield "output", [*outward, *drop]


def _ranges(ports: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int, int]]:
    """(protocol, first, last) for each run of successive ports."""
    found: list[tuple[str, int, int]] = []
    for protocol, port in sorted(set(ports)):
        if found and found[-1][0] == protocol and found[-1][2] == port - 1:
            found[-1] = protocol, found[-1][1], port
        else:
            found.append((protocol, port, port))
    return found


def _bytes_of(size: int, first: int, last: int) -> tuple[bytes, bytes]:
    return first.to_bytes(size, "big"), last.to_bytes(size, "big")


def _value(data: bytes) -> Expression:
    return Expression(attrs=[("NFTA_DATA_VALUE", data)])


def _expression(name: str, **fields: object) -> Expression:
    made: Expression = genex(name, fields)
    return made


def _equals(data: bytes) -> Expression:
    return _expression("cmp", sreg=1, op=0, data=_value(data))


def _meta(key: str, data: bytes) -> list[Expression]:
    return [_expression("meta", key=Meta[key], dreg=1), _equals(data)]


def _interface(key: str, name: str) -> list[Expression]:
    return _meta(key, name.encode().ljust(16, b"\0"))


def _protocol(number: int) -> list[Expression]:
    return _meta("NFT_META_L4PROTO", bytes((number,)))


def _family(number: int) -> list[Expression]:
    return _meta("NFT_META_NFPROTO", bytes((number,)))


def _answers() -> list[Expression]:
    """ct state established,related."""
    mask, zero = struct.pack("=I", _ESTABLISHED_RELATED), bytes(4)
    return [
        _expression("ct", key=0, dreg=1),
        _expression("bitwise", sreg=1, dreg=1, len=4, mask=_value(mask), xor=_value(zero)),
        _expression("cmp", sreg=1, op=1, data=_value(zero)),
    ]


def _between(base: int, offset: int, ends: tuple[bytes, bytes]) -> list[Expression]:
    """The bytes of a header at `offset` lie between two values."""
    first, last = ends
    found = _expression("payload", dreg=1, base=base, offset=offset, len=len(first))
    if first == last:
        return [found, _equals(first)]
    return [found, *(_expression("cmp", sreg=1, op=op, data=_value(end)) for op, end in ((5, first), (3, last)))]


class _Batch:
    """The messages of one transaction, with sequence numbers."""

    def __init__(self) -> None:
        self._data = b""
        self._sequence = 0
        self._mark(_BEGIN)

    def _mark(self, kind: int) -> None:
        message: Any = nfgen_msg()
        message["res_id"] = NFNL_SUBSYS_NFTABLES
        self._append(message, kind, 0)

    def _append(self, message: Any, kind: int, flags: int) -> None:
        message["header"]["type"] = kind
        message["header"]["flags"] = NLM_F_REQUEST | flags
        message["header"]["sequence_number"] = self._sequence
        self._sequence += 1
        message.encode()
        self._data += bytes(message.data)

    def add(self, shape: Any, kind: int, flags: int, **attributes: object) -> None:
        message = shape()
        message["nfgen_family"] = _INET
        message["attrs"] = list(attributes.items())
        self._append(message, NFNL_SUBSYS_NFTABLES << 8 | kind, flags)

    def close(self) -> bytes:
        self._mark(_END)
        return self._data
