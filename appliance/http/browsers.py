"""Refuses requests that a browser sends for a page of another site: such a page must not use an API that its user can reach.

- Cross-site requests and WebSockets carry the page's Origin (RFC 6454), which then is not the site that the request is for.
- DNS rebinding: a name of the attacker resolves to this server, so that Origin and Host are both the attacker's name.
  Without TLS only Host shows that. (With TLS the browser finds no certificate for that name.)
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from appliance.http.reply import Reply
from appliance.http.request import Request
from appliance.http.server import Handler

_DEFAULT_PORTS = {"http": 80, "https": 443}


def refuse_other_sites(handler: Handler, names: Iterable[str] | None) -> Handler:
    """The handler for requests of no browser, or of a page of this server; 403 for the others.

    `names`: Host must be an IP address, a name without a dot, or one of these names; None: any Host.
    """
    known = None if names is None else frozenset(_plain(name) for name in names)

    async def guarded(request: Request, reply: Reply) -> None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if known is not None and not _is_own_untrusted(host, known):
            problem = f'Host "{host}" is not a name of this server: use its IP address, or TLS'
        elif origin is not None and not _is_same_untrusted(origin, host):
            problem = f'requests of pages from "{origin}" are refused'
        else:
            await handler(request, reply)
            return
        await reply.json(403, {"message": f"authorization denied: {problem}"})

    return guarded


def _plain(name: str) -> str:
    return name.rstrip(".").lower()


def _is_own_untrusted(host: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    # An attacker cannot register a name without a dot, or one below localhost (RFC 6761).
    plain = _plain(name)
    if "." not in plain or plain in names or plain.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(plain)
    except ValueError:
        return False
    return True


def _is_same_untrusted(origin: str, host: str) -> bool:
    try:
        page, server = urlsplit(origin), urlsplit(f"{origin.partition('://')[0]}://{host}")
        default = _DEFAULT_PORTS.get(page.scheme)
        ports = (page.port or default, server.port or default)
    except ValueError:
        return False
    return bool(page.hostname) and page.hostname == server.hostname and ports[0] == ports[1]
