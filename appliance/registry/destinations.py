"""Where a registry may send its client: redirects, token services, upload and page addresses are all the registry's words.

A registry elsewhere must not make vchd ask a service of this host (127.0.0.1) or of its link (169.254.169.254 is the metadata
service of many clouds), whether it names the address or a host name that resolves to it.
"""

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import httpcore
import httpx
import trio

from appliance.errors import ProtocolError

# The key in a request's `extensions`: the URL of the request comes from a peer, and its value is the `Destinations` for it.
GUARDED = "vch.destinations"
MAX_REDIRECTS = 10
_FORM = "application/x-www-form-urlencoded"


class Destinations:
    """The addresses to which the peer `hosts` may send us: loopback and link-local addresses only if a host itself has one."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(hosts)
        self._kinds: set[str] | None = None

    async def check(self, host: str, addresses: Sequence[str]) -> None:
        """ProtocolError when one of the addresses of `host` is out of reach for the peer."""
        for address in addresses:
            kind = _kind_of(address)
            if kind and kind not in await self._own_kinds():
                raise ProtocolError(f"a redirect to {host} is refused: it has the {kind} address {address}")

    async def _own_kinds(self) -> set[str]:
        if self._kinds is None:
            # Requests beside this one look them up, too: they must not see half of the kinds.
            kinds: set[str] = set()
            for host in self._hosts:
                try:
                    found = await addresses_of(host, 0)
                except (OSError, UnicodeError):
                    continue  # A proxy may know the name.
                kinds |= {_kind_of(address) for address in found}
            self._kinds = kinds
        return self._kinds


def _kind_of(text: str) -> str:
    """The kind of an address, which may have a zone; "" for one that any peer may name."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    # Linux connects to the unspecified address as to loopback.
    if address.is_loopback or address.is_unspecified:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    return ""


async def addresses_of(host: str, port: int) -> list[str]:
    """All addresses of a host. OSError when it has none."""
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to a host only after a check of the very addresses to which it connects: a name may resolve to others a moment later."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._backend = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """See AsyncNetworkBackend. ProtocolError when an address of the host is out of reach."""
        try:
            addresses = await addresses_of(host, port)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        await self._destinations.check(host, addresses)
        problem: Exception | None = None
        for address in dict.fromkeys(addresses):
            try:
                return await self._backend.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem or httpcore.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        """See AsyncNetworkBackend."""
        await trio.sleep(seconds)


async def send_following(
    client: httpx.AsyncClient, request: httpx.Request, destinations: Destinations
) -> httpx.Response:
    """Send a request and follow redirects. The body of the answer is not read yet. TooManyRedirects, ProtocolError.

    httpx itself would read the bodies of redirects, without a bound. It prepares the next request: without our Authorization
    if scheme, host or port differ. (Go's client looks at the host alone.)
    """
    for _ in range(MAX_REDIRECTS + 1):
        response = await client.send(request, stream=True, follow_redirects=False)
        following = response.next_request
        if following is None:
            return response
        await response.aclose()
        if following.method == "POST" and following.headers.get("content-type") == _FORM:
            # httpx would repeat the form of a token request, which holds a secret, at any host.
            raise ProtocolError(f"a redirect of a token request to {following.url.host} is refused")
        request = following
        request.extensions = {**request.extensions, GUARDED: destinations}
    raise httpx.TooManyRedirects(f"more than {MAX_REDIRECTS} redirects", request=request)


def same_origin(first: httpx.URL, second: httpx.URL) -> bool:
    """Whether two URLs have the same scheme, host and port."""
    return (first.scheme, first.host, first.port) == (second.scheme, second.host, second.port)
