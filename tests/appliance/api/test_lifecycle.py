"""Routes that change a container: what reaches the backends, and `wait`."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from appliance.api.lifecycle import LifecycleRoutes
from appliance.api.router import Router
from appliance.container.host_config import HostConfig
from appliance.errors import InvalidParameter, NotFound
from tests.appliance.api.asking import ask
from tests.appliance.http.wire import served


class _Backend:
    """All backends of the routes; remembers the calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.container = SimpleNamespace(changed=trio.Event(), record=SimpleNamespace(exit_code=3, error=""))
        self.met = False

    def __getattr__(self, method: str) -> Any:
        async def call(*arguments: Any, **named: Any) -> None:
            if arguments[0] == "none":
                raise NotFound("No such container: none")
            self.calls.append((method, *arguments, *named.items()))

        return call

    async def cpus(self) -> int:
        return 2

    def wait(self, ref: str, condition: str) -> tuple[Any, Any]:
        self.calls.append(("wait", ref, condition))
        return self.container, lambda: self.met


async def _ask(backend: _Backend, line: str, body: Any = None) -> tuple[int, Any]:
    made: Any = backend
    return await ask(LifecycleRoutes(made, made, made).routes(), line, body)


@pytest.mark.parametrize(
    ("line", "call"),
    [
        (
            "POST /containers/box/start?checkpoint=c&checkpoint-dir=/d",
            ("start", "box", ("by_user", True), ("checkpoint", "c"), ("directory", "/d")),
        ),
        ("POST /containers/box/stop", ("stop", "box", ("signal", ""), ("timeout", None))),
        ("POST /containers/box/stop?t=-1&signal=HUP", ("stop", "box", ("signal", "HUP"), ("timeout", -1))),
        ("POST /containers/box/restart?t=5", ("restart", "box", ("signal", ""), ("timeout", 5))),
        ("POST /containers/box/kill?signal=USR1", ("kill", "box", "USR1")),
        ("POST /containers/box/pause", ("pause", "box")),
        ("POST /containers/box/unpause", ("unpause", "box")),
        ("POST /containers/box/rename?name=crate", ("rename", "box", "crate")),
        ("DELETE /containers/box/alias?link=1", ("unlink", "box", "alias")),
    ],
)
async def test_changes(line: str, call: tuple[Any, ...]) -> None:
    backend = _Backend()
    assert await _ask(backend, line) == (204, b"")
    assert backend.calls == [call]


async def test_resize() -> None:
    backend = _Backend()
    assert await _ask(backend, "POST /containers/box/resize?h=25&w=80") == (200, b"")
    assert backend.calls == [("resize", "box", 25, 80)]
    for query in ("", "?h=1", "?h=-1&w=1", "?h=65536&w=1", "?h=x&w=1"):
        assert (await _ask(backend, f"POST /containers/box/resize{query}"))[0] == 400


async def test_errors() -> None:
    assert await _ask(_Backend(), "POST /containers/none/kill") == (
        404,
        {"message": "cannot kill container: none: No such container: none"},
    )
    assert (await _ask(_Backend(), "POST /containers/none/stop"))[1] == {"message": "No such container: none"}
    assert (await _ask(_Backend(), "POST /containers/box/stop?t=x"))[0] == 400
    assert await _ask(_Backend(), "DELETE /containers/box/alias") == (404, {"message": "page not found"})


async def test_update() -> None:
    backend = _Backend()
    assert (await _ask(backend, "POST /containers/box/update", {"memory": 1 << 30}))[0] == 200
    method, name, wanted, _ = backend.calls[0]
    assert (method, name, wanted.memory) == ("update", "box", 1 << 30)
    # The check that the result has to pass knows how many CPUs there are.
    with pytest.raises(InvalidParameter, match=r"there are only 2 CPUs available"):
        backend.calls[0][3](HostConfig(nano_cpus=3 * 10**9))
    # Docker's UpdateConfig has no Binds and no foo, so dockerd ignores them.
    status, body = await _ask(backend, "POST /containers/box/update", {"foo": 1, "Binds": ["/a:/b"], "Dns": []})
    assert status == 200
    assert body == {"Warnings": ["foo is not known here and was ignored", "Binds cannot be updated and was ignored"]}
    assert backend.calls[1][2] == HostConfig()
    status, body = await _ask(backend, "POST /containers/box/update", {"CpuRealtimePeriod": 5})
    assert (status, body["message"].startswith("CpuRealtimePeriod is not supported")) == (400, True)
    assert (await _ask(backend, "POST /containers/box/update", []))[0] == 400


@pytest.mark.parametrize(
    ("version", "condition", "answer"),
    [
        ("1.51", "next-exit", b'{"StatusCode":3}\n'),
        ("1.41", "removed", b'{"Error":null,"StatusCode":3}\n'),
        ("1.29", "", b'{"Error":null,"StatusCode":3}\n'),
    ],
)
async def test_wait(version: str, condition: str, answer: bytes) -> None:
    backend: Any = _Backend()
    router = Router()
    router.add_all(LifecycleRoutes(backend, backend, backend).routes())
    async with served(router) as client:
        await client.send(
            f"POST /v{version}/containers/box/wait?condition={condition} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        # The CLI starts the container when it has the head.
        await client.expect(
            b"HTTP/1.1 200 OK\r\nServer: test\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await trio.testing.wait_all_tasks_blocked()
        changed, backend.container.changed = backend.container.changed, trio.Event()
        changed.set()  # a change that is not the end
        await trio.testing.wait_all_tasks_blocked()
        backend.met = True
        backend.container.changed.set()
        await client.expect(b"%x\r\n%s\r\n0\r\n\r\n" % (len(answer), answer))
    assert backend.calls == [("wait", "box", condition)]


async def test_wait_shows_the_error_of_a_start() -> None:
    backend = _Backend()
    backend.met, backend.container.record.error = True, "no such file"
    assert (await _ask(backend, "POST /containers/box/wait"))[1].count(b'"Error":{"Message":"no such file"}') == 1
