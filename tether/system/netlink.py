"""Links, addresses and routes by rtnetlink (rtnetlink(7)), as much as a guest needs. pyroute2 costs a guest 0.3 s to import."""

import errno
import ipaddress
import os
import socket
import struct
from pathlib import Path

_NLMSG_ERROR, _NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_CREATE = 2, 1, 4, 0x100, 0x400
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE = 16, 20, 21, 24
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU = 1, 3, 4
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_IFA_F_NODAD = 2
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_IFF_UP = 1
_NET = Path("/sys/class/net")


def _attribute(kind: int, value: bytes) -> bytes:
    body = struct.pack("HH", 4 + len(value), kind) + value
    return body + bytes(-len(body) % 4)


def _link(flags: int, attributes: bytes, index: int) -> bytes:
    return struct.pack("BxHiII", socket.AF_UNSPEC, 0, index, flags, _IFF_UP) + attributes


class Netlink:
    """One rtnetlink socket. Every call raises OSError with the kernel's errno."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._sequence = 0

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _request(self, kind: int, flags: int, body: bytes, subject: str) -> None:
        self._sequence += 1
        header = struct.pack("IHHII", 16 + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, self._sequence, 0)
        self._socket.send(header + body)
        while True:
            reply = self._socket.recv(65536)
            _, answer, _, sequence, _ = struct.unpack_from("IHHII", reply)
            if sequence == self._sequence and answer == _NLMSG_ERROR:
                code = -struct.unpack_from("i", reply, 16)[0]
                if code:
                    raise OSError(code, os.strerror(code), subject)
                return

    def set_link(
        self, index: int, *, up: bool = True, name: str | None = None, mac: str | None = None, mtu: int = 0
    ) -> None:
        """Change a link; a new name or address needs it down first, which the caller sees to."""
        attributes = b""
        if name is not None:
            attributes += _attribute(_IFLA_IFNAME, name.encode() + b"\0")
        if mac is not None:
            attributes += _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        if mtu:
            attributes += _attribute(_IFLA_MTU, struct.pack("I", mtu))
        self._request(_RTM_NEWLINK, 0, _link(_IFF_UP if up else 0, attributes, index), name or str(index))

    def add_address(self, index: int, cidr: str) -> None:
        self._request(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, self._address(index, cidr), cidr)

    def remove_address(self, index: int, cidr: str) -> None:
        """One that is not there is fine."""
        try:
            self._request(_RTM_DELADDR, 0, self._address(index, cidr), cidr)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise

    @staticmethod
    def _address(index: int, cidr: str) -> bytes:
        interface = ipaddress.ip_interface(cidr)
        family = socket.AF_INET if interface.version == 4 else socket.AF_INET6
        # Who gives out addresses has seen to it that nobody else has this one: the kernel need not ask around for a second.
        flags = _IFA_F_NODAD if interface.version == 6 else 0
        body = struct.pack("BBBBi", family, interface.network.prefixlen, flags, 0, index)
        body += _attribute(_IFA_LOCAL, interface.packed) + _attribute(_IFA_ADDRESS, interface.packed)
        if interface.version == 4:
            body += _attribute(_IFA_BROADCAST, interface.network.broadcast_address.packed)
        return body

    def add_route(self, index: int, destination: str, gateway: str) -> None:
        via = ipaddress.ip_address(gateway) if gateway else None
        network = ipaddress.ip_network(destination or ("::/0" if via is not None and via.version == 6 else "0.0.0.0/0"))
        family = socket.AF_INET if network.version == 4 else socket.AF_INET6
        scope = 0 if via else 253  # universe, link
        body = struct.pack("BBBBBBBBI", family, network.prefixlen, 0, 0, 254, 3, scope, 1, 0)
        if network.prefixlen:
            body += _attribute(_RTA_DST, network.network_address.packed)
        if via is not None:
            body += _attribute(_RTA_GATEWAY, via.packed)
        body += _attribute(_RTA_OIF, struct.pack("i", index))
        self._request(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_REPLACE, body, destination or "default")


def nics() -> list[tuple[int, str, str]]:
    """(index, name, MAC) of the network NICs, without loopback, in the order in which the kernel found them."""
    found = []
    for path in _NET.iterdir():
        if path.name != "lo" and (path / "device").exists():
            found.append((int((path / "ifindex").read_text()), path.name, (path / "address").read_text().strip()))
    return sorted(found)


# sock_diag(7); linux/inet_diag.h, linux/sock_diag.h.
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 4, 20, 21
_NLMSG_DONE, _NLM_F_DUMP = 3, 0x300
# All TCP states but LISTEN, TIME_WAIT and CLOSE.
_CONNECTED = 0xFFF & ~(1 << 10 | 1 << 6 | 1 << 7)


def close_tcp() -> int:
    """End every TCP connection whose peer is not this machine (SOCK_DESTROY); how many. Needs the module tcp_diag."""
    ended = 0
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG) as diag:
        for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            found = []
            for message in _dump(diag, struct.pack("BBBxI48x", family, socket.IPPROTO_TCP, 0, _CONNECTED)):
                identity = message[4:52]
                peer = ipaddress.ip_address(identity[20 : 20 + size])
                mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
                if not (mapped or peer).is_loopback:
                    found.append(identity)
            for identity in found:
                body = struct.pack("BBBxI", family, socket.IPPROTO_TCP, 0, _CONNECTED) + identity
                diag.send(struct.pack("IHHII", 16 + len(body), _SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, 2, 0) + body)
                ended += not struct.unpack_from("i", diag.recv(65536), 16)[0]
    return ended


def _dump(diag: socket.socket, body: bytes) -> list[bytes]:
    """The payloads that answer a dump request."""
    header = struct.pack("IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0)
    diag.send(header + body)
    payloads: list[bytes] = []
    while True:
        data = diag.recv(1 << 20)
        while data:
            length, kind = struct.unpack_from("IH", data)
            if kind == _NLMSG_DONE:
                return payloads
            if kind == _NLMSG_ERROR:
                code = -struct.unpack_from("i", data, 16)[0]
                raise OSError(code, os.strerror(code), "sock_diag")
            payloads.append(data[16:length])
            data = data[length + 3 & ~3 :]


def loopback_up() -> None:
    with Netlink() as netlink:
        netlink.set_link(socket.if_nametoindex("lo"))
