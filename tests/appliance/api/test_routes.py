"""The handler of all connections: which router a client gets."""

from appliance.api.router import Route, Router
from appliance.api.routes import Api
from appliance.http import Reply, Request
from appliance.roles import LOCAL, Principal, Role
from tests.appliance.http.wire import served


def _says(text: str) -> Route:
    async def route(request: Request, reply: Reply) -> None:
        await reply.raw(200, b"text/plain", text.encode())

    return route


async def _ask(api: Api, principal: Principal) -> bytes:
    async with served(api, principal) as client:
        await client.send(b"GET /info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return (await client.receive(1 << 16)).partition(b"\r\n\r\n")[2]


async def test_each_scope_has_a_router_of_its_own() -> None:
    made: list[str] = []

    def scoped(scope: str) -> Router:
        made.append(scope)
        router = Router(scope)
        router.add("GET", "/info", _says(f"of {scope}"))
        return router

    unscoped = Router()
    unscoped.add("GET", "/info", _says("of all"))
    api = Api(unscoped, scoped)
    assert api.keys == [("GET", "/info")]
    assert await _ask(api, LOCAL) == b"of all"
    for scope in ("a", "b", "a"):
        assert await _ask(api, Principal("x", Role.SCOPED, scope)) == f"of {scope}".encode()
    assert made == ["a", "b"]


async def test_the_routers_of_scopes_are_bounded() -> None:
    made: list[str] = []
    unscoped = Router()

    def scoped(scope: str) -> Router:
        made.append(scope)
        return Router(scope)

    api = Api(unscoped, scoped)
    for number in (*range(65), 0):
        await _ask(api, Principal("x", Role.SCOPED, f"scope {number}"))
    assert made.count("scope 0") == 2
