"""Tap devices (tun(4), linux/if_tun.h): the host's ends of NICs. A tap exists as long as a QEMU holds its descriptor.

A tap is up only as a port of a bridge: as a device of its own, it would be a link between the guest and the host.
"""

import fcntl
import os
import socket
import struct
from pathlib import Path

from appliance.errors import HypervisorError
from appliance.hypervisor.driver import NO_BRIDGE
from tether.system.netlink import NetlinkSocket, attribute

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x2, 0x1000, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCBRADDIF = 0x8913, 0x8914, 0x89A2
_IFF_UP = 1
# rtnetlink(7), linux/if_link.h
_NETLINK_ROUTE, _RTM_SETLINK = 0, 19
_IFLA_PROTINFO, _NLA_F_NESTED, _IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 12, 1 << 15, 4, 33


def open_tap(bridge: str, *, isolated: bool) -> tuple[int, str]:
    """Create a tap on a bridge; return its descriptor and its name. HypervisorError when that fails."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            answer = fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"vch-%d", flags))
            name = answer[:16].rstrip(b"\0").decode()
            _refuse_ipv6(name)
            attach(name, bridge, isolated=isolated)
        except BaseException:
            os.close(fd)
            raise
    except OSError as error:
        raise HypervisorError(f"cannot create a tap on bridge {bridge}: {error}") from error
    return fd, name


def _refuse_ipv6(name: str) -> None:
    """The host has no address on a tap, and takes none from a router advertisement of the guest."""
    path = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    # A host that was booted with ipv6.disable=1 has no such file.
    if path.exists():
        path.write_text("1")


def _set_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH22x", name.encode(), 0)
        flags = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP))


def attach(name: str, bridge: str, *, isolated: bool) -> None:
    """Put a tap on a bridge and switch it on, unless the bridge is NO_BRIDGE. OSError when the bridge does not exist."""
    if bridge == NO_BRIDGE:
        return
    index = socket.if_nametoindex(name)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        fcntl.ioctl(control, _SIOCBRADDIF, struct.pack("16si20x", bridge.encode(), index))
    _set_port(index, isolated)
    _set_up(name)


def _set_port(index: int, isolated: bool) -> None:
    """Isolated ports of a bridge do not reach each other.

    Where bridges pass through netfilter (bridge-nf-call-iptables), a machine that reaches itself by a published port is sent its
    own frame back: a bridge does that in hairpin mode only.
    """
    attributes = attribute(_IFLA_BRPORT_MODE, b"\1") + attribute(_IFLA_BRPORT_ISOLATED, bytes([isolated]))
    body = struct.pack("BxHiII", socket.AF_BRIDGE, 0, index, 0, 0)
    body += attribute(_IFLA_PROTINFO | _NLA_F_NESTED, attributes)
    with NetlinkSocket(_NETLINK_ROUTE) as netlink:
        netlink.request(_RTM_SETLINK, body)
