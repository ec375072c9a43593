"""What each role may do: the table, the document made from it, and every route with every role."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

import appliance.api
from appliance.api.access import check_access, document, known_routes, principal_of
from appliance.api.router import Router
from appliance.api.routes import Api
from appliance.config import parse_rule
from appliance.errors import Forbidden
from appliance.http import Peer, Reply, Request
from appliance.roles import LOCAL, Principal, Role
from tests.appliance.engine.harness import Host, engine
from tests.appliance.http.wire import served

_DOCUMENT = Path(str(appliance.api.__file__)).parent / "ROLES.md"
# The route of connections that begin with HTTP/2, which has no request that a client of HTTP/1.1 could send.
_HTTP2 = "PRI"
_ALICE, _BOB = Peer("alice", ("ops", "dev")), Peer("bob")
_READ_ALICE = Principal("client certificate CN=alice", Role.READ)
# What no client may do that has neither full access nor a scope.
_CHANGES = re.compile(
    r"(POST|PUT|DELETE) .*|GET /containers/\{name\}/attach/ws|GET /vch/.*|GET /swarm/unlockkey|GET /plugins/privileges"
)
_FILES = {
    "HEAD /containers/{name}/archive",
    "GET /containers/{name}/archive",
    "POST /containers/{name}/copy",
    "GET /containers/{name}/changes",
    "GET /containers/{name}/export",
    "GET /images/get",
    "GET /images/{name:.*}/get",
}
_REGISTRY = {
    "POST /images/create",
    "GET /images/search",
    "GET /distribution/{name:.*}/json",
    "POST /auth",
    "POST /images/{name:.*}/push",
    "POST /images/{name:.*}/tag",
}
_SCOPED_NEVER = re.compile(
    r".* /(swarm|nodes|services|tasks|secrets|configs|plugins|build|session|grpc|vch)(/.*)?"
    r"|DELETE /images/.*|POST /images/(load|prune)|POST /images/\{name:\.\*\}/(push|tag)|GET /images/(get|\{name:\.\*\}/get)"
)


def _expected(route: str) -> set[Role]:
    """The roles that may call a route, by rules that were written apart from the table."""
    found = {Role.FULL}
    if route in _FILES:
        found.add(Role.FILES)
    elif route in _REGISTRY:
        found.add(Role.REGISTRY)
    elif not _CHANGES.fullmatch(route):
        found |= {Role.READ, Role.FILES, Role.REGISTRY}
    if not _SCOPED_NEVER.fullmatch(route):
        found.add(Role.SCOPED)
    return found


@pytest.mark.parametrize(
    ("peer", "rules", "role"),
    [
        (_BOB, (), Role.FULL),
        (_ALICE, ("read:CN=alice", "full:OU=dev"), Role.FULL),
        (_ALICE, ("files:CN=alice", "read:OU=ops", "registry:OU=other"), Role.FILES),
        (_ALICE, ("registry:CN=alice",), Role.REGISTRY),
        (_ALICE, ("none:CN=alice",), Role.NONE),
        (_BOB, ("read:OU=ops", "full:CN=alice"), Role.NONE),
        (Peer("", ("ops",)), ("scoped:OU=ops",), Role.NONE),
        (Peer("", ("ops",)), ("scoped:OU=ops", "read:OU=ops"), Role.READ),
    ],
)
def test_the_most_generous_rule_counts(peer: Peer, rules: Sequence[str], role: Role) -> None:
    assert principal_of(peer, [parse_rule(text) for text in rules]) == Principal(
        f"client certificate CN={peer.common_name}", role
    )


def test_the_scope_of_a_client_is_its_name() -> None:
    rules = [parse_rule("scoped:OU=ops")]
    first, second = principal_of(_ALICE, rules), principal_of(Peer("carol", ("ops",)), rules)
    assert (first.role, first.scope) == (Role.SCOPED, "client certificate CN=alice")
    assert second.scope not in ("", first.scope)


async def _ask(router: Router, line: str, principal: Principal) -> tuple[int, str]:
    """The status, and the message of the answer."""
    async with served(router, principal) as client:
        await client.send(f"{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = await client.receive(1 << 20)
    start, _, body = answer.partition(b"\r\n\r\n")
    return int(start.split()[1]), json.loads(body)["message"] if body.startswith(b'{"message"') else ""


def _principal(role: Role) -> Principal:
    return Principal("container:abc", role, "container:abc" if role is Role.SCOPED else "")


def _spy(router: Router | Api, scope: str) -> Router:
    """A router with the same routes, each of which answers 200."""

    async def called(request: Request, reply: Reply) -> None:
        await reply.raw(200, b"text/plain", b"called")

    spy = Router(scope)
    for method, path in router.keys:
        spy.add(method, path, called)
    return spy


async def test_the_document_shows_the_table(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with engine(Host(nursery), tmp_path) as daemon:
        text = document(daemon.router.keys)
    # After a change: VCH_WRITE_ROLES=1 .venv/bin/python -m pytest tests/appliance/api/test_access.py -k document
    if os.environ.get("VCH_WRITE_ROLES"):
        _DOCUMENT.write_text(text)
    assert _DOCUMENT.read_text() == text


async def test_every_route_with_every_role(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with engine(Host(nursery), tmp_path) as daemon:
        router = daemon.router
    assert set(known_routes()) <= set(router.keys)
    spies, tried = {scope: _spy(router, scope) for scope in ("", "container:abc")}, 0
    for method, path in router.keys:
        if method == _HTTP2:
            continue
        target = re.sub(r"\{[^}]*\}", "x", path)
        if (method, target) in router.keys and target != path:
            target = target.replace("x", "y")
        may = _expected(f"{method} {path}")
        for role in Role:
            principal = _principal(role)
            status, message = await _ask(spies[principal.scope], f"{method} /v1.51{target}", principal)
            assert status == (200 if role in may else 403), (method, path, role)
            if status == 403 and method != "HEAD":
                assert message.startswith("authorization denied: ")
                assert "container:abc" in message
            tried += 1
    assert tried > 600


_READER_QUERIES = {
    "/events": "?until=1",
    "/containers/stopped/json": "?size=1",
    "/containers/stopped/logs": "?stdout=1",
    "/containers/stopped/stats": "?stream=0",
}


async def test_what_a_reader_reads_starts_no_machine(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = Host(nursery)
    async with engine(host, tmp_path) as daemon:
        await daemon.create(name="stopped")

        async def get(role: Role, method: str, target: str) -> bytes:
            async with served(daemon.router, Principal("reader", role)) as client:
                await client.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                return (await client.receive(1 << 16)).splitlines()[0]

        statuses = []
        for method, path in daemon.router.keys:
            if method != _HTTP2 and Role.READ in _expected(f"{method} {path}"):
                ref = {"containers": "stopped", "images": "empty", "networks": "bridge"}.get(path.split("/")[1], "x")
                target = re.sub(r"\{[^}]*\}", ref, path)
                statuses.append(await get(Role.READ, method, target + _READER_QUERIES.get(target, "")))
        assert len(statuses) > 30
        assert not any(b" 403 " in status for status in statuses)
        assert host.vms.journal == []
        # A client that reads files does start a machine.
        await get(Role.FILES, "GET", "/containers/stopped/changes")
        assert "start" in {action for action, _ in host.vms.journal}


@pytest.mark.parametrize(
    ("principal", "line", "message"),
    [
        (_READ_ALICE, "POST /containers/create", "client certificate CN=alice may only read"),
        (_READ_ALICE, "GET /v1.51/containers/box/checkpoints?dir=/etc", "client certificate CN=alice may only read"),
        (_READ_ALICE, "GET /containers/box/checkpoints?dir=&dir=/etc", "client certificate CN=alice may only read"),
        (
            Principal("client certificate CN=bob", Role.NONE),
            "GET /_ping",
            "client certificate CN=bob is not authorised to use this API",
        ),
        (
            Principal("client certificate CN=bob", Role.NONE),
            "GET /no/such/route",
            "client certificate CN=bob is not authorised to use this API",
        ),
        (
            Principal("container:abc", Role.REGISTRY),
            "POST /images/create?fromSrc=-&repo=x",
            "the role registry of container:abc does not allow the parameter fromSrc",
        ),
        (
            Principal("container:abc", Role.FILES),
            "DELETE /images/a/b",
            "the role files of container:abc does not allow DELETE /images/{name}",
        ),
    ],
)
async def test_the_words_of_a_refusal(principal: Principal, line: str, message: str) -> None:
    router = Router()
    for method, path in known_routes():
        router.add(method, path, _never)
    router.add("DELETE", "/images/{name:.*}", _never)
    assert await _ask(router, line, principal) == (403, f"authorization denied: {message}")


async def _never(request: Request, reply: Reply) -> None:
    raise AssertionError


async def test_an_unknown_route_is_not_found() -> None:
    assert (await _ask(Router(), "GET /no/such/route", _READ_ALICE))[0] == 404


async def test_a_route_that_the_table_does_not_name_is_for_full_access_alone() -> None:
    async def handler(request: Request, reply: Reply) -> None:
        with pytest.raises(Forbidden):
            check_access(request, ("GET", "/new"))
        await reply.empty(200)

    for role in set(Role) - {Role.FULL, Role.NONE}:
        async with served(handler, _principal(role)) as client:
            await client.send(b"GET /new HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await client.receive(1 << 16)).startswith(b"HTTP/1.1 200 ")
    assert LOCAL.role is Role.FULL


async def test_a_router_serves_the_clients_of_its_scope_alone() -> None:
    for router_scope, scope in (("", "a"), ("a", ""), ("a", "b")):
        router = Router(router_scope)
        router.add("GET", "/info", _never)
        for role in (Role.READ, Role.FULL):
            assert (await _ask(router, "GET /info", Principal("x", role, scope)))[0] == 403
