"""TCP connections of the guest by sock_diag(7): linux/inet_diag.h, linux/sock_diag.h."""

import ipaddress
import socket
import struct

from tether.system.netlink import NetlinkSocket

_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 4, 20, 21
# All TCP states but LISTEN, TIME_WAIT and CLOSE.
_CONNECTED = 0xFFF & ~(1 << 10 | 1 << 6 | 1 << 7)


def close_tcp() -> int:
    """End every TCP connection whose peer is not this VM; return how many. Needs the kernel module tcp_diag."""
    ended = 0
    with NetlinkSocket(_NETLINK_SOCK_DIAG) as diag:
        for family, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16)):
            query = struct.pack("BBBxI", family, socket.IPPROTO_TCP, 0, _CONNECTED)
            found = []
            for message in diag.dump(_SOCK_DIAG_BY_FAMILY, query + bytes(48), subject="sock_diag"):
                # struct inet_diag_sockid: ports, then source and destination address of 16 bytes each.
                identity = message[4:52]
                peer = ipaddress.ip_address(identity[20 : 20 + size])
                mapped = peer.ipv4_mapped if isinstance(peer, ipaddress.IPv6Address) else None
                if not (mapped or peer).is_loopback:
                    found.append(identity)
            for identity in found:
                try:
                    diag.request(_SOCK_DESTROY, query + identity)
                except OSError:
                    continue  # The connection has ended meanwhile.
                ended += 1
    return ended
