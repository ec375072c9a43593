"""What a TLS client may do: everything, read, or nothing. Rules name subjects: "full:CN=name", "read:OU=unit"."""

import re
from collections.abc import Sequence

from appliance.config import Rule
from appliance.http import Handler, Peer, Reply, Request

_READS = ("GET", "HEAD")
# Not a read although its method is GET: the client's input goes to the container.
_WRITES_BY_GET = re.compile(r"(/v[0-9.]+)?/containers/[^/]+/attach/ws")


def handler_for(peer: Peer, rules: Sequence[Rule], handler: Handler) -> Handler:
    """The handler that serves this client. Without rules every client has full access, else the most generous rule counts."""
    allowed = [rule.full for rule in rules if rule.fits(peer.common_name, peer.units)]
    if not rules or any(allowed):
        return handler
    client = f"client certificate CN={peer.common_name}"

    async def restricted(request: Request, reply: Reply) -> None:
        if not allowed:
            await reply.json(403, {"message": f"authorization denied: {client} is not authorised to use this API"})
        elif request.method not in _READS or _WRITES_BY_GET.fullmatch(request.raw_path):
            await reply.json(403, {"message": f"authorization denied: {client} may only read"})
        else:
            await handler(request, reply)

    return restricted
