"""Who may use the daemon's own containers."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.api.daemon_objects import guard_daemon_objects
from appliance.api.router import Route, Router
from appliance.errors import NotFound
from appliance.http import Reply, Request
from appliance.roles import Principal, Role
from tests.appliance.http.wire import served


class _Registry:
    def get(self, ref: str) -> Any:
        if ref not in ("vch-builder", "app"):
            raise NotFound(f"No such container: {ref}")
        return SimpleNamespace(record=SimpleNamespace(role="builder" if ref == "vch-builder" else ""))


async def _answer(request: Request, reply: Reply) -> None:
    await reply.json(200, request.path)


@pytest.mark.parametrize("role", [Role.READ, Role.FILES, Role.REGISTRY, Role.FULL])
@pytest.mark.parametrize("route", ["json", "logs", "archive"])
async def test_the_builder_is_for_clients_with_full_access(role: Role, route: str) -> None:
    registry: Any = _Registry()
    routes: dict[tuple[str, str], Route] = {
        ("GET", f"/containers/{{name}}/{kind}"): _answer for kind in ("json", "logs", "archive")
    }
    router = Router()
    router.add_all(guard_daemon_objects(routes, registry))
    found = {}
    for name in ("app", "vch-builder", "none"):
        async with served(router, principal=Principal("client", role)) as client:
            await client.send(
                f"GET /containers/{name}/{route} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
            )
            head, _, body = (await client.receive(1 << 16)).partition(b"\r\n\r\n")
            found[name] = (int(head.split()[1]), json.loads(body))
    reads_files = route != "archive" or role in (Role.FILES, Role.FULL)
    assert found["app"][0] == found["none"][0] == (200 if reads_files else 403)
    assert found["vch-builder"][0] == (200 if role is Role.FULL else 403)
    if role is Role.FILES:
        message = "authorization denied: client may not use the builder of this daemon"
        assert found["vch-builder"][1] == {"message": message}
