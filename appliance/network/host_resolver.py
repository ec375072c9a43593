"""The resolver of the daemon's host: its resolv.conf(5), and what of this file containers can use."""

import contextlib
import ipaddress
from dataclasses import dataclass, replace
from pathlib import Path

_RESOLV_CONF = Path("/etc/resolv.conf")
# The servers that systemd-resolved asks; its own address is of no use outside of the host.
_SYSTEMD_RESOLV_CONF = Path("/run/systemd/resolve/resolv.conf")
_SYSTEMD_SERVER = "127.0.0.53"
# What moby uses where the host has no server that containers can reach (resolvconf.go).
_DEFAULT_SERVERS = ("8.8.8.8", "8.8.4.4")


@dataclass(frozen=True, slots=True)
class HostResolver:
    """The lines of a resolv.conf(5). `other` are whole lines, with directives that Docker does not know."""

    servers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def host_resolver() -> HostResolver:
    """Read the host's resolv.conf(5) now: it changes when the host changes networks."""
    return _read(_RESOLV_CONF)


def resolver_without_network() -> HostResolver:
    """The host's resolv.conf(5) as moby gives it to a container without a network (TransformForLegacyNw, Path).

    Loopback addresses, which only the host reaches, and IPv6 addresses are left out.
    """
    found = _read(_RESOLV_CONF)
    if found.servers == (_SYSTEMD_SERVER,):
        found = _read(_SYSTEMD_RESOLV_CONF)
    addresses = map(ipaddress.ip_address, found.servers)
    servers = tuple(str(one) for one in addresses if one.version == 4 and not one.is_loopback)
    return replace(found, servers=servers or _DEFAULT_SERVERS)


def _read(path: Path) -> HostResolver:
    """As moby reads it: the last `search` counts, `options` add up, malformed servers are left out."""
    servers: list[str] = []
    search: list[str] = []
    options: list[str] = []
    other: list[str] = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in path.read_text().splitlines():
            match [] if line.startswith(("#", ";")) else line.split():
                case ["nameserver", server, *_]:
                    with contextlib.suppress(ValueError):
                        servers.append(str(ipaddress.ip_address(server.partition("%")[0])))
                case ["search" | "domain", *domains]:
                    search = domains or search
                case ["options", *more]:
                    options += more
                case ["nameserver"] | []:
                    pass
                case _:
                    other.append(line)
    return HostResolver(tuple(servers), tuple(search), tuple(options), tuple(other))
