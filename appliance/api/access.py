"""What a client may do, by its certificate: anything, read, or nothing. Rules are "full:CN=name", "read:OU=unit"."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.errors import InvalidParameter
from appliance.http import Handler, Peer, Reply, Request

_READS = ("GET", "HEAD")
# GET, and yet more than reading: what is typed goes to a container.
_MORE_THAN_READING = re.compile(r"(/v[0-9.]+)?/containers/[^/]+/attach/ws")


@dataclass(frozen=True, slots=True)
class Rule:
    """Whoever has this in its subject (`key` is CN or OU) may do all, or read only."""

    full: bool
    key: str
    value: str

    def fits(self, peer: Peer) -> bool:
        """Whether a client is meant."""
        return self.value == peer.common_name if self.key == "CN" else self.value in peer.units


def parse_rule(text: str) -> Rule:
    """InvalidParameter for what is none."""
    found = re.fullmatch(r"(full|read):(CN|OU)=(.+)", text)
    if found is None:
        raise InvalidParameter(f"invalid --tls-allow {text}: full:CN=NAME, full:OU=UNIT, read:CN=NAME or read:OU=UNIT")
    return Rule(found[1] == "full", found[2], found[3])


def handler_for(peer: Peer, rules: Sequence[Rule], handler: Handler) -> Handler:
    """What serves a client; without rules every certificate is as good as any other. The most that a rule says counts."""
    allowed = [rule.full for rule in rules if rule.fits(peer)]
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
