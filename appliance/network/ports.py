"""Published ports of the host. A socket holds each of them, so that no other program takes the port."""

import contextlib
import errno
import logging
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import trio

from appliance.container.container_record import Binding
from appliance.container.host_config import PortBinding, PortBindings
from appliance.diag.isolated import IsolatedTasks
from appliance.errors import InvalidParameter, VchError
from appliance.http.listener import BACKLOG, accept_connections, send_at_once
from appliance.hypervisor import Forward
from appliance.network.firewall import Publication
from appliance.network.host import HostNetwork

log = logging.getLogger(__name__)

_EPHEMERAL = (32768, 60999)
_RANGE_FILE = "/proc/sys/net/ipv4/ip_local_port_range"


@dataclass(frozen=True, slots=True)
class PortRequest:
    """Publish a container's port on one of the host's ports `first` to `last` (0, 0: any free port)."""

    protocol: str
    port: int
    host_ip: str
    first: int
    last: int


def parse_port(text: str) -> tuple[int, str]:
    """Parse "80/tcp". InvalidParameter, with Docker's text, when it is malformed."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if not number.isdigit() or not 0 < int(number) < 65536 or protocol not in ("tcp", "udp", "sctp"):
        raise InvalidParameter(f"invalid port specification: {text!r}")
    return int(number), protocol


def each_port(exposed: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The single ports of ExposedPorts, such as 80/tcp and 8000-8010/udp."""
    for text in exposed:
        numbers, slash, protocol = text.partition("/")
        first, _, last = numbers.partition("-")
        for number in range(
            parse_port(first + slash + protocol)[0], parse_port((last or first) + slash + protocol)[0] + 1
        ):
            yield number, protocol.lower() or "tcp"


def parse_bindings(bindings: PortBindings) -> list[PortRequest]:
    """HostConfig.PortBindings: {"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}. InvalidParameter names what is wrong."""
    wanted = []
    for exposed, places in bindings.items():
        port, protocol = parse_port(exposed)
        if protocol == "sctp":
            raise InvalidParameter(f"invalid port specification: {exposed!r}: sctp ports cannot be published")
        # moby: an empty list means any address and port.
        for place in places or [PortBinding()]:
            first, _, last = (place.host_port or "0").partition("-")
            last = last or first
            if not (first.isdigit() and last.isdigit()) or int(first) > int(last) or int(last) > 65535:
                raise InvalidParameter(f"invalid port range: value: {place.host_port}")
            host_ip = place.host_ip
            if host_ip:
                try:
                    socket.inet_pton(socket.AF_INET6 if ":" in host_ip else socket.AF_INET, host_ip)
                except OSError as error:
                    raise InvalidParameter(f"invalid IP address: {host_ip}") from error
            wanted.append(PortRequest(protocol, port, host_ip, int(first), int(last)))
    return wanted


class _Taken(Exception):
    """The port is in use; the text is Docker's."""


class Ports:
    """All published ports of the host. `nursery` owns the relays from IPv6 to IPv4."""

    def __init__(self, host: HostNetwork, nursery: trio.Nursery) -> None:
        self._host = host
        self._tasks = IsolatedTasks(nursery)
        self._held: dict[str, list[_Held]] = {}
        self._published: dict[str, list[Publication]] = {}

    def take(self, container: str, endpoint: str, wanted: Iterable[PortRequest], host_ip: str = "") -> list[Binding]:
        """Hold ports for a container: all of them, or none and an error with Docker's text.

        `host_ip` is for requests without an address. `container` may also be a part of a container that is released alone.
        """
        held: list[_Held] = []
        bindings: list[Binding] = []
        try:
            for one in wanted:
                places = [one.host_ip or host_ip] if one.host_ip or host_ip else ["0.0.0.0", *_every_ipv6()]
                number = self._find(one, places, held)
                bindings += [Binding(one.protocol, one.port, place, number) for place in places]
        except _Taken as taken:
            for one_held in held:
                one_held.close()
            raise VchError(f"driver failed programming external connectivity on endpoint {endpoint}: {taken}") from None
        self._held.setdefault(container, []).extend(held)
        return bindings

    def _find(self, wanted: PortRequest, places: list[str], held: list["_Held"]) -> int:
        reason = _Taken("all ports are allocated")
        for number in _candidates(wanted):
            mine: list[_Held] = []
            try:
                for place in places:
                    mine.append(self._hold(wanted.protocol, place, number))
            except _Taken as taken:
                reason = taken
                for one in mine:
                    one.close()
                continue
            held += mine
            return number
        raise reason

    def _hold(self, protocol: str, place: str, number: int) -> "_Held":
        for others in self._held.values():
            if any(one.is_at(protocol, place, number) for one in others):
                raise _Taken(f"Bind for {place}:{number} failed: port is already allocated")
        try:
            return _Held(protocol, place, number)
        except OSError as error:
            what = (
                "address already in use" if error.errno == errno.EADDRINUSE else (error.strerror or str(error)).lower()
            )
            raise _Taken(f"failed to bind host port {place}:{number}/{protocol}: {what}") from None

    def retake(self, container: str, bindings: Iterable[Binding]) -> None:
        """Hold the ports of a container that runs since before this daemon started."""
        for one in bindings:
            try:
                self._held.setdefault(container, []).append(self._hold(one.protocol, one.host_ip, one.host_port))
            except _Taken as taken:
                log.warning("cannot hold a port of container %s again: %s", container[:12], taken)

    def forward(self, container: str, bindings: Iterable[Binding], address: str, address6: str) -> None:
        """Forward the ports to the container."""
        bindings = list(bindings)
        published = publications(bindings, address, address6)
        self._host.publish(published)
        self._published[container] = published
        for one in self._held.get(container, ()):
            target = _target_of(one, bindings)
            if target is not None and ":" in one.place and not address6 and one.protocol == "tcp":
                # No rule of nftables translates IPv6 to IPv4.
                self._relay(one, address, target)

    def hand_over(self, container: str) -> None:
        """Let the hypervisor listen at the IPv4 ports of this container. IPv6 is relayed to them."""
        for one in self._held.get(container, ()):
            if ":" not in one.place:
                one.socket.close()
            elif one.protocol == "tcp":
                self._relay(one, "127.0.0.1", one.number)

    def _relay(self, held: "_Held", address: str, port: int) -> None:
        # Duplicated here: when the task begins, the port may have been released already.
        listener = trio.socket.from_stdlib_socket(held.socket.dup())
        self._tasks.start_soon(_relay, listener, held, address, port)

    def release(self, container: str) -> None:
        """Undo `take` and `forward`."""
        try:
            self._host.withdraw(self._published.pop(container, ()))
        except VchError as error:
            log.warning("cannot withdraw the ports of container %s: %s", container[:12], error)
        for one in self._held.pop(container, ()):
            one.close()

    def published(self) -> list[Publication]:
        """All ports that lead to a container."""
        return [publication for forwarded in self._published.values() for publication in forwarded]


def publications(bindings: list[Binding], address: str, address6: str) -> list[Publication]:
    """The bindings as publications for the host's firewall."""
    found = []
    for one in bindings:
        target = address6 if ":" in one.host_ip else address
        place = "" if one.host_ip in ("0.0.0.0", "::") else one.host_ip
        if target:
            found.append(Publication(one.protocol, place, one.host_port, target, one.port))
    return found


def forwards(bindings: Iterable[Binding], address: str) -> tuple[Forward, ...]:
    """The bindings as forwards of user-mode networking, without those of IPv6, which are relayed."""
    return tuple(
        Forward(one.protocol, one.host_ip, one.host_port, address, one.port)
        for one in bindings
        if ":" not in one.host_ip
    )


def _candidates(wanted: PortRequest) -> Iterator[int]:
    if wanted.first:
        yield from range(wanted.first, wanted.last + 1)
        return
    first, last = _EPHEMERAL
    with contextlib.suppress(OSError, ValueError), open(_RANGE_FILE) as file:
        first, last = map(int, file.read().split())
    global _next_port
    for _ in range(last - first + 1):
        _next_port = _next_port + 1 if first <= _next_port < last else first
        yield _next_port


_next_port = 0


def _every_ipv6() -> list[str]:
    """The address `::`, if the host has IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return []
    return ["::"]


def _target_of(held: "_Held", bindings: list[Binding]) -> int | None:
    for one in bindings:
        if (one.protocol, one.host_ip, one.host_port) == (held.protocol, held.place, held.number):
            return one.port
    return None


class _Held:
    """A port of the host that a socket holds. The firewall forwards its packets, so the socket itself receives none."""

    def __init__(self, protocol: str, place: str, number: int) -> None:
        self.protocol, self.place, self.number = protocol, place, number
        family = socket.AF_INET6 if ":" in place else socket.AF_INET
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        self.socket = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        self.scope = trio.CancelScope()
        try:
            if family == socket.AF_INET6:
                self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if protocol == "tcp":
                # Old connections in TIME_WAIT must not block the port. A listener of another program still does.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind((place, number))
            if protocol == "tcp":
                self.socket.listen(BACKLOG)
        except BaseException:
            self.socket.close()
            raise

    def is_at(self, protocol: str, place: str, number: int) -> bool:
        same = (":" in place) == (":" in self.place) and (
            place == self.place or {place, self.place} & {"0.0.0.0", "::"} != set()
        )
        return self.protocol == protocol and self.number == number and same

    def close(self) -> None:
        self.scope.cancel()
        if self.protocol == "tcp":
            # The relay closes its duplicate of the socket later. Without this, the duplicate would listen, and hold the port, until then.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


async def _relay(listener: trio.socket.SocketType, held: _Held, address: str, port: int) -> None:
    """Relay connections from IPv6 to an IPv4 address."""

    async def serve(client: trio.socket.SocketType) -> None:
        await _carry(client, address, port)

    with held.scope:
        async with trio.open_nursery() as nursery:
            await accept_connections(listener, serve, nursery, name=f"published port {held.number}")


async def _carry(client: trio.socket.SocketType, address: str, port: int) -> None:
    with contextlib.suppress(OSError), trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        await server.connect((address, port))
        send_at_once(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_pump, client, server)
            nursery.start_soon(_pump, server, client)


async def _pump(source: trio.socket.SocketType, target: trio.socket.SocketType) -> None:
    with contextlib.suppress(OSError):
        while data := await source.recv(65536):
            sent = 0
            while sent < len(data):
                sent += await target.send(data[sent:])
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
