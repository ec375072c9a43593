"""What TLS clients may do, by rules."""

import pytest

from appliance.api.access import handler_for
from appliance.config import Rule, parse_rule
from appliance.http import Peer
from tests.appliance.http.wire import echo, served

_ALICE, _BOB = Peer("alice", ("ops", "dev")), Peer("bob")


async def _status(peer: Peer, rules: list[Rule], line: bytes) -> bytes:
    async with served(handler_for(peer, rules, echo)) as client:
        await client.send(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await client.receive(1 << 20)
    return answer.splitlines()[0] + b" " + answer.partition(b"\r\n\r\n")[2].strip()


def test_without_rules_every_client_has_the_handler_itself() -> None:
    assert handler_for(_BOB, [], echo) is echo


@pytest.mark.parametrize("rule", ["full:CN=alice", "full:OU=dev", "full:OU=ops"])
def test_full_access(rule: str) -> None:
    assert handler_for(_ALICE, [parse_rule("read:CN=alice"), parse_rule(rule)], echo) is echo
    assert handler_for(_BOB, [parse_rule(rule)], echo) is not echo


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v1.51/info",
        b"HEAD /_ping",
        b"GET /containers/attach/json",
        b"GET /v1.51/containers/box/attach/w",
        b"GET /containers/box/checkpoints",
    ],
)
async def test_a_reader_reads(line: bytes) -> None:
    assert (await _status(_ALICE, [parse_rule("read:OU=ops")], line)).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize(
    "line",
    [
        b"POST /containers/create",
        b"DELETE /containers/box",
        b"PUT /containers/box/archive",
        b"GET /containers/box/attach/ws",
        b"GET /v1.51/containers/box/attach/ws?stdin=1",
        b"GET /v1.51/containers/box/checkpoints?dir=/etc",
        b"GET /containers/box/checkpoints?dir=/etc",
    ],
)
async def test_a_reader_does_not_write(line: bytes) -> None:
    assert await _status(_ALICE, [parse_rule("read:OU=ops")], line) == (
        b'HTTP/1.1 403 Forbidden {"message":"authorization denied: client certificate CN=alice may only read"}'
    )


async def test_a_client_without_a_rule_is_denied() -> None:
    assert await _status(_BOB, [parse_rule("read:OU=ops"), parse_rule("full:CN=alice")], b"GET /info") == (
        b'HTTP/1.1 403 Forbidden {"message":"authorization denied: '
        b'client certificate CN=bob is not authorised to use this API"}'
    )
