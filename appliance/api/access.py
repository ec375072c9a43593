"""What a TLS client may do: everything, read, or nothing. Rules name subjects: "full:CN=name", "read:OU=unit"."""

import re
from collections.abc import Sequence

from appliance.config import Rule
from appliance.http import Handler, Peer, Reply, Request

_READS = ("GET", "HEAD")
# Not reads of the API although their method is GET: the client's input goes to the container; `dir` names any folder of the host.
_MORE_THAN_READS = re.compile(r"(/v[0-9.]+)?/containers/[^/]+/(attach/ws(\?.*)?|checkpoints\?.+)")


def handler_for(peer: Peer, rules: Sequence[Rule], handler: Handler) -> Handler:
    """The handler that serves this client. Without rules every client has full access, else the most generous rule counts."""
    allowed = [rule.full for rule in rules if rule.fits(peer.common_name, peer.units)]
    if not rules or any(allowed):
        return handler
    client = f"client certificate CN={peer.common_name}"

    async def restricted(request: Request, reply: Reply) -> None:
        if not allowed:
            await reply.json(403, {"message": f"authorization denied: {client} is not authorised to use this API"})
        elif request.method not in _READS or _MORE_THAN_READS.fullmatch(request.target):
            await reply.json(403, {"message": f"authorization denied: {client} may only read"})
        else:
            await handler(request, reply)

    return restricted
