"""Plug-ins: empty listings, refusals by name."""

import pytest

from appliance.api.unsupported import UnsupportedRoutes
from tests.appliance.api.asking import ask

_ROUTES = UnsupportedRoutes().routes()


async def test_plugins() -> None:
    assert await ask(_ROUTES, "GET /plugins") == (200, [])
    for line in ("GET /plugins/privileges?remote=x", "POST /plugins/pull?remote=x", "POST /plugins/create"):
        assert await ask(_ROUTES, line) == (501, {"message": "plugins are not supported"})
    for line in ("GET /plugins/a/b:c/json", "POST /plugins/a/b:c/enable", "DELETE /plugins/a/b:c"):
        assert await ask(_ROUTES, line) == (404, {"message": 'plugin "a/b:c" not found'})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('GET /plugins?filters={"nonsense":["x"]}', "invalid filter 'nonsense'"),
        ('GET /plugins?filters={"enabled":["x"]}', "invalid filter 'enabled=[x]'"),
    ],
)
async def test_filters_that_are_refused(line: str, message: str) -> None:
    status, body = await ask(_ROUTES, line)
    assert (status, body["message"].startswith(message)) == (400, True), body
