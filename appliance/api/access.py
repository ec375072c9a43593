"""What a client may do, by its certificate: anything, read, or nothing. Rules are "full:CN=name", "read:OU=unit"."""

import re
from collections.abc import Sequence

from appliance.config import Rule
from appliance.http import Handler, Peer, Reply, Request

_READS = ("GET", "HEAD")
# GET, and yet more than reading: what is typed goes to a container.
_MORE_THAN_READING = re.compile(r"(/v[0-9.]+)?/containers/[^/]+/attach/ws")


def handler_for(peer: Peer, rules: Sequence[Rule], handler: Handler) -> Handler:
    """What serves a client; without rules every certificate is as good as any other. The most that a rule says counts."""
    allowed = [rule.full for rule in rules if rule.fits(peer.common_name, peer.units)]
    if not rules or any(allowed):
        return handler
    who = f"client certificate CN={peer.common_name}"

    async def restricted(request: Request, reply: Reply) -> None:
        if not allowed:
            await reply.json(403, {"message": f"authorization denied: {who} is none that may use this API"})
        elif request.method not in _READS or _MORE_THAN_READING.fullmatch(request.raw_path):
            await reply.json(403, {"message": f"authorization denied: {who} may only read"})
        else:
            await handler(request, reply)

    return restricted
