"""Routes of checkpoints."""

from typing import Any

import pytest

from appliance.api.checkpoints import CheckpointRoutes
from tests.appliance.api.asking import ask


class _Checkpoints:
    """A CheckpointBackend; remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def list(self, ref: str, directory: str) -> list[str]:
        return [f"{ref}-{directory}"]

    async def create(self, ref: str, checkpoint_id: str, directory: str, *, leave_running: bool) -> None:
        self.calls.append((ref, checkpoint_id, directory, leave_running))

    async def remove(self, ref: str, checkpoint_id: str, directory: str) -> None:
        self.calls.append((ref, checkpoint_id, directory))


async def test_list() -> None:
    routes = CheckpointRoutes(_Checkpoints()).routes()
    assert await ask(routes, "GET /containers/box/checkpoints?dir=d") == (200, [{"Name": "box-d"}])


async def test_create_and_remove() -> None:
    backend = _Checkpoints()
    routes = CheckpointRoutes(backend).routes()
    path = "/containers/box/checkpoints"
    assert await ask(routes, f"POST {path}", {"CheckpointID": "c", "CheckpointDir": "/d", "Exit": True}) == (201, b"")
    assert await ask(routes, f"POST {path}", {"CheckpointID": "c"}) == (201, b"")
    assert await ask(routes, f"DELETE {path}/c?dir=/d") == (204, b"")
    assert backend.calls == [("box", "c", "/d", False), ("box", "c", "", True), ("box", "c", "/d")]


@pytest.mark.parametrize("body", [None, [], {"CheckpointID": 5}, {"CheckpointID": "c", "CheckpointDir": [5]}])
async def test_malformed_requests(body: Any) -> None:
    routes = CheckpointRoutes(_Checkpoints()).routes()
    assert (await ask(routes, "POST /containers/box/checkpoints", body))[0] == 400
