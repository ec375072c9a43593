"""NAT, published ports and isolation as nftables rules. The rules are in two tables of this daemon; other tables stay as they are.

libnftables(3) takes the text of a whole transaction, and applies all of it or nothing.
"""

import ctypes
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.errors import Unavailable
from appliance.network.network_record import OPTION_MASQUERADE, NetworkRecord, Uplink


@dataclass(frozen=True, slots=True)
class Publication:
    """A port of the host that leads to a port of a container. An empty `host_ip` means every address of the host."""

    protocol: str
    host_ip: str
    host_port: int
    address: str
    port: int


class Nft:
    """One context of libnftables. Only one thread at a time may use it."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise Unavailable(f"libnftables (Debian: libnftables1) is missing: {error}") from error
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        self._library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._library.nft_ctx_new(0))
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def run(self, text: str) -> None:
        """Apply commands as one transaction. Unavailable with libnftables' message when it refuses them."""
        if self._library.nft_run_cmd_from_buffer(self._context, text.encode()):
            message = self._library.nft_ctx_get_error_buffer(self._context) or b""
            raise Unavailable(f"nftables: {message.decode('utf-8', 'replace').strip()}")

    def close(self) -> None:
        self._library.nft_ctx_free(self._context)


def removal(table: str) -> str:
    """The commands that remove our tables. They succeed when there are no tables."""
    return "".join(f"add table {family} {table}\ndelete table {family} {table}\n" for family in ("ip", "ip6"))


def frame_removal(table: str) -> str:
    """The commands that remove the table of frame_rules. They succeed when there is no table."""
    return f"add table bridge {table}\ndelete table bridge {table}\n"


def frame_rules(table: str, networks: Iterable[NetworkRecord] = ()) -> str:
    """The commands that replace our table for frames of guests between the ports of bridges.

    A DNS query to a gateway is marked with the tap that it came in by, because guests choose their own source addresses. The mark is
    a hash of the tap's index, and not 0: a mark cannot be set to an index itself. See NameServer.

    Guests are behind taps (`vch-0`, `vch-1`...). A guest is neither a router (RFC 4861: router advertisement, redirect) nor a bridge
    (IEEE 802.1D: a physical switch may shut the port of a host that sends BPDUs).
    """
    return frame_removal(table) + (
        f"table bridge {table} {{\n"
        " chain guests {\n"
        "  type filter hook prerouting priority -300;\n"
        '  iifname "vch-*" icmpv6 type { nd-router-advert, nd-redirect } drop\n'
        '  iifname "vch-*" ether daddr 01:80:c2:00:00:00 drop\n'
        f"{''.join(_query_marks(networks))}"
        " }\n"
        "}\n"
    )


def _query_marks(networks: Iterable[NetworkRecord]) -> Iterator[str]:
    gateways = dict.fromkeys(pool.gateway for network in networks if network.is_bridge for pool in network.used_pools)
    for family, colon in (("ip", False), ("ip6", True)):
        if own := ", ".join(address for address in gateways if address and (":" in address) == colon):
            yield (
                f'  iifname "vch-*" {family} daddr {{ {own} }} udp dport 53 '
                "meta mark set jhash meta iif mod 4294967294 seed 0x1 offset 1\n"
            )


def rules(
    table: str, networks: Iterable[NetworkRecord], publications: Iterable[Publication], uplink: Uplink | None = None
) -> str:
    """The commands that replace our tables as a whole."""
    bridges = [network for network in networks if network.is_bridge and network.bridge]
    published = list(publications)
    return removal(table) + "".join(_family(family, table, bridges, published, uplink) for family in ("ip", "ip6"))


def _elements(items: Iterable[str]) -> str:
    listed = ", ".join(items)
    return f" elements = {{ {listed} }};" if listed else ""


@dataclass(frozen=True, slots=True)
class _SharedBridgeRules:
    """Rules that separate networks on a shared bridge, for the chains forward and input."""

    forward: list[str]
    input: list[str]


def _shared_bridge_rules(family: str, bridges: list[NetworkRecord], uplink: Uplink) -> _SharedBridgeRules:
    forward, into, internal = [], [], []
    for network in bridges:
        for pool in network.used_pools if network.bridge == uplink.bridge else ():
            if (":" in pool.subnet) != (family == "ip6"):
                continue
            source, target = f'iifname "{uplink.bridge}" {family} saddr', f'oifname "{uplink.bridge}" {family} daddr'
            forward.append(f"{source} {pool.subnet} {target} {pool.subnet} accept")
            # A container may ask only the name server of its own network.
            into.append(
                f"{source} != {pool.subnet} {family} daddr {pool.gateway} meta l4proto {{ tcp, udp }} th dport 53 drop"
            )
            if network.internal:
                internal += [f"{source} {pool.subnet} drop", f"{target} {pool.subnet} drop"]
                into += [
                    f"{source} {pool.subnet} {family} daddr {pool.gateway} tcp dport {uplink.port} accept",
                    f"{source} {pool.subnet} meta l4proto {{ tcp, udp }} th dport 53 accept",
                    f"{source} {pool.subnet} meta l4proto {{ icmp, ipv6-icmp }} accept",
                    f"{source} {pool.subnet} drop",
                ]
    return _SharedBridgeRules(forward + internal, into)


def _family(
    family: str, table: str, bridges: list[NetworkRecord], publications: list[Publication], uplink: Uplink | None
) -> str:
    kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
    names = list(dict.fromkeys(f'"{network.bridge}"' for network in bridges))
    own = [network for network in bridges if uplink is None or network.bridge != uplink.bridge]
    internal = [f'"{network.bridge}"' for network in own if network.internal]
    same = [f'"{network.bridge}" . "{network.bridge}"' for network in own]
    shared = _shared_bridge_rules(family, bridges, uplink) if uplink is not None else _SharedBridgeRules([], [])
    own_ports = [one for one in publications if _is_of(one, family)]
    everywhere = [f"{_port(one)} : {_target(one)}" for one in own_ports if not one.host_ip]
    somewhere = [f"{one.host_ip} . {_port(one)} : {_target(one)}" for one in own_ports if one.host_ip]
    nat = [
        f"fib daddr type local dnat {family} to {family} daddr . meta l4proto . th dport map @published_at",
        f"fib daddr type local dnat {family} to meta l4proto . th dport map @published",
    ]
    out = []
    for network in bridges:
        for pool in network.used_pools:
            if (":" in pool.subnet) == (family == "ip6"):
                if not network.internal and network.on(OPTION_MASQUERADE):
                    out.append(f'{family} saddr {pool.subnet} oifname != "{network.bridge}" masquerade')
                # A container reaches itself, or another container of its network, by a published port. The answer has to come
                # back through the host.
                out.append(f"{family} saddr {pool.subnet} {family} daddr {pool.subnet} ct status dnat masquerade")
    loopback = "127.0.0.0/8" if family == "ip" else "::1/128"
    if family == "ip":
        out.append("ip saddr 127.0.0.0/8 oifname @bridges masquerade")
    chains = {
        # With route_localnet a container could reach the loopback addresses of the host.
        "raw": ("type filter hook prerouting priority raw", [f"iifname @bridges {family} daddr {loopback} drop"]),
        "prerouting": ("type nat hook prerouting priority dstnat", nat),
        "output": ("type nat hook output priority -100", nat),
        "postrouting": ("type nat hook postrouting priority srcnat", out),
        "forward": (
            "type filter hook forward priority filter",
            [
                "ct state established,related accept",
                "iifname . oifname @same accept",
                *shared.forward,
                "iifname @internal drop",
                "oifname @internal drop",
                # Published ports can be reached from everywhere, all other ports only from the same network.
                "oifname @bridges ct status dnat accept",
                "oifname @bridges drop",
            ],
        ),
        "input": (
            "type filter hook input priority filter",
            [
                *(["iifname @bridges icmpv6 type { nd-router-advert, nd-redirect } drop"] if family == "ip6" else []),
                "ct state established,related accept",
                *shared.input,
                "iifname @internal meta l4proto { tcp, udp } th dport 53 accept",
                "iifname @internal meta l4proto { icmp, ipv6-icmp } accept",
                "iifname @internal drop",
            ],
        ),
    }
    text = [
        f"table {family} {table} {{",
        f" map published {{ type inet_proto . inet_service : {kind} . inet_service;{_elements(everywhere)} }}",
        f" map published_at {{ type {kind} . inet_proto . inet_service : {kind} . inet_service;{_elements(somewhere)} }}",
        f" set bridges {{ type ifname;{_elements(names)} }}",
        f" set internal {{ type ifname;{_elements(internal)} }}",
        f" set same {{ type ifname . ifname;{_elements(same)} }}",
    ]
    for name, (head, lines) in chains.items():
        text += [f" chain {name} {{", f"  {head};", *(f"  {line}" for line in lines), " }"]
    return "\n".join(text) + "\n}\n"


def _is_of(publication: Publication, family: str) -> bool:
    return (":" in publication.address) == (family == "ip6")


def _port(one: Publication) -> str:
    return f"{one.protocol} . {one.host_port}"


def _target(one: Publication) -> str:
    return f"{one.address} . {one.port}"


def element(verb: str, table: str, one: Publication) -> str:
    """The command that adds or deletes one published port."""
    family = "ip6" if ":" in one.address else "ip"
    if one.host_ip:
        return f"{verb} element {family} {table} published_at {{ {one.host_ip} . {_port(one)} : {_target(one)} }}\n"
    return f"{verb} element {family} {table} published {{ {_port(one)} : {_target(one)} }}\n"
