"""Decides which requests go through a proxy, by dockerd's rules (golang.org/x/net/http/httpproxy)."""

import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpcore
import httpx

from appliance.errors import ProtocolError
from appliance.registry.destinations import GUARDED, Destinations, GuardedBackend

_PORTS = {"http": 80, "https": 443}
# httpx searches each line of a head for cookies, so short lines cost more than the bytes of a head show.
MAX_HEADER_LINES = 1000
# The host of a URL of 64 KiB takes 0.2 s to parse. URLs that registries sign have a few KiB.
MAX_HEADER_VALUE = 16 << 10
# httpcore has no parameter for this bound. A head also ends in the piece (64 KiB) that passes it.
httpcore.AsyncHTTP11Connection.MAX_INCOMPLETE_EVENT_SIZE = 32 << 10


@dataclass(frozen=True, slots=True)
class Proxies:
    """The proxies for each scheme. `no_proxy` lists hosts that need none: names, .names, IPs, CIDRs or *, each with or without :port."""

    http: str = ""
    https: str = ""
    no_proxy: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], http: str = "", https: str = "", no_proxy: str = "") -> "Proxies":
        """The given values, or those of HTTP_PROXY, HTTPS_PROXY and NO_PROXY in upper or lower case."""

        def find(name: str) -> str:
            return environment.get(name) or environment.get(name.lower()) or ""

        return cls(http or find("HTTP_PROXY"), https or find("HTTPS_PROXY"), no_proxy or find("NO_PROXY"))

    def proxy_for(self, scheme: str, host: str, port: int | None) -> str:
        """The URL of the proxy for requests to a host; "" for a direct connection."""
        proxy = {"http": self.http, "https": self.https}.get(scheme, "")
        if not proxy or self._is_direct(host.strip("[]").rstrip(".").lower(), port or _PORTS.get(scheme, 0)):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"

    def _is_direct(self, host: str, port: int) -> bool:
        if host == "localhost":
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = None
        if address is not None and address.is_loopback:
            return True
        return any(_matches(entry, host, address, port) for entry in self.no_proxy.lower().replace(",", " ").split())

    @staticmethod
    def shown(address: str) -> str:
        """The URL of a proxy without its secrets, for `docker info`."""
        parts = urlsplit(address)
        if "@" not in parts.netloc:
            return address
        return parts._replace(netloc=f"xxxxx:xxxxx@{parts.netloc.rpartition('@')[2]}").geturl()


NO_PROXIES = Proxies()


def _matches(entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    name, colon, number = entry.rpartition(":")
    if colon and number.isdigit() and (":" not in name or name.startswith("[")):
        if int(number) != port:
            return False
        entry = name
    if address is not None:
        try:
            return ipaddress.ip_address(entry.strip("[]")) == address
        except ValueError:
            return False
    entry = entry.removeprefix("*")
    # A name matches itself and all its subdomains; a name with a leading dot matches only subdomains.
    return host.endswith(entry if entry.startswith(".") else f".{entry}") or host == entry


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class ProxyTransport(httpx.AsyncBaseTransport):
    """A transport that chooses the proxy for each request, because registries redirect to other hosts. Owns its connections."""

    def __init__(self, proxies: Proxies, verify: ssl.SSLContext | bool, limits: httpx.Limits) -> None:
        self._proxies = proxies
        self._verify = verify
        self._limits = limits
        # Requests whose URL comes from a peer have connections of their own: those of other requests were not checked.
        self._transports: dict[tuple[str, bool], httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        proxy = self._proxies.proxy_for(url.scheme, url.host, url.port)
        destinations: Destinations | None = request.extensions.get(GUARDED)
        if proxy and destinations is not None and _is_address(url.host):
            # The proxy resolves names; it is the operator's, and knows what it may reach.
            await destinations.check(url.host, [url.host])
        key = (proxy, destinations is not None)
        if key not in self._transports:
            self._transports[key] = self._open(proxy, destinations)
        try:
            response = await self._transports[key].handle_async_request(request)
        except UnicodeError as error:
            # IDNA rejects the host name.
            raise httpx.ConnectError(f"{url.host}: no such host") from error
        if len(response.headers.raw) > MAX_HEADER_LINES:
            await response.aclose()
            raise ProtocolError(f"{url.host} sent an answer with more than {MAX_HEADER_LINES} header lines")
        if any(len(value) > MAX_HEADER_VALUE for _, value in response.headers.raw):
            await response.aclose()
            raise ProtocolError(f"{url.host} sent a header line of more than {MAX_HEADER_VALUE} bytes")
        return response

    def _open(self, proxy: str, destinations: Destinations | None) -> httpx.AsyncHTTPTransport:
        try:
            transport = httpx.AsyncHTTPTransport(
                verify=self._verify, limits=self._limits, proxy=proxy or None, trust_env=False
            )
        except ValueError as error:
            raise httpx.ProxyError(f"{self._proxies.shown(proxy)}: {error}") from error
        if not proxy and destinations is not None:
            # httpx has no public parameter for the network backend of httpcore.
            assert isinstance(transport._pool, httpcore.AsyncConnectionPool)
            transport._pool._network_backend = GuardedBackend(destinations)
        return transport

    async def aclose(self) -> None:
        for transport in self._transports.values():
            await transport.aclose()
