"""Routes of execs: what is decoded, the hijacked start, and what inspect shows."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from appliance.api.execs import ExecRoutes
from appliance.api.router import Router
from appliance.container.exec_config import ExecConfig
from appliance.errors import Conflict, NotFound, VchError
from appliance.guest import Fanout
from appliance.streams import stdcopy
from tests.appliance.api.asking import ask
from tests.appliance.http.wire import served


class _Execs:
    """An ExecBackend with one exec, `e1`, which prints "hello" and ends when it is started."""

    def __init__(self, config: ExecConfig, error: VchError | None = None) -> None:
        self.config = config
        self.error = error
        self.started = False
        self.resized: tuple[int, int] | None = None
        self.exec = SimpleNamespace(
            id="e1",
            container=SimpleNamespace(id="c1"),
            config=config,
            command=["sh", "-c", "ls"],
            tty=config.tty,
            fanout=Fanout(),
            stdin=None,
            running=True,
            exit_code=None,
            pid=7,
            size=(0, 0),
        )

    async def create(self, ref: str, config: ExecConfig) -> Any:
        self.config = config
        return self.exec

    def get(self, exec_id: str) -> Any:
        if exec_id != "e1":
            raise NotFound(f"No such exec instance: {exec_id}")
        return self.exec

    def ids_of(self, ref: str) -> list[str]:
        return ["e1"]

    async def start(self, exec_id: str) -> None:
        if self.error is not None:
            raise self.error
        self.started = True
        await self.exec.fanout.publish(1, b"hello")
        self.exec.fanout.end_run()

    async def resize(self, exec_id: str, rows: int, columns: int) -> None:
        self.resized = (rows, columns)


async def test_create_decodes_names_in_any_case() -> None:
    execs = _Execs(ExecConfig())
    # docker-java sends containerId.
    body = {"cmd": ["ls"], "ATTACHSTDOUT": True, "User": "1:1", "Env": None, "containerId": "x"}
    assert await ask(ExecRoutes(execs).routes(), "POST /containers/box/exec", body) == (201, {"Id": "e1"})
    assert execs.config == ExecConfig(cmd=["ls"], attach_stdout=True, user="1:1")


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"Cmd": "ls"},
        {"Cmd": [5]},
        {"Tty": "yes"},
        {"Cmd": ["a\0b"]},
        {"User": "\0"},
        {"Cmd": ["ls"], "DetachKeys": "ctrl-?"},
    ],
)
async def test_requests_that_are_refused(body: Any) -> None:
    assert (await ask(ExecRoutes(_Execs(ExecConfig())).routes(), "POST /containers/box/exec", body))[0] == 400


async def _started(execs: _Execs, line: bytes, body: bytes) -> bytes:
    router = Router()
    router.add_all(ExecRoutes(execs).routes())
    async with served(router) as client:
        head = b"%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
            line,
            len(body),
        )
        await client.send(head + body)
        client.end()
        return await client.receive(1 << 16)


async def test_output_of_a_start() -> None:
    execs = _Execs(ExecConfig(attach_stdout=True))
    answer = await _started(execs, b"POST /exec/e1/start", b"{}")
    assert answer == (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\nServer: test\r\n\r\n"
        + stdcopy.header(1, 5)
        + b"hello"
    )
    execs = _Execs(ExecConfig(attach_stdout=True, tty=True))
    answer = await _started(execs, b"POST /exec/e1/start", b'{"Tty":true,"ConsoleSize":[25,80]}')
    assert answer.endswith(b"\r\n\r\nhello")
    assert execs.exec.size == (25, 80)


async def test_an_error_of_a_start_is_output() -> None:
    execs = _Execs(ExecConfig(attach_stdout=True), Conflict("the container is paused"))
    answer = await _started(execs, b"POST /exec/e1/start", b'{"Tty":true}')
    assert answer.endswith(b"\r\n\r\nthe container is paused\r\n")


async def test_a_detached_start() -> None:
    execs = _Execs(ExecConfig())
    assert await ask(ExecRoutes(execs).routes(), "POST /exec/e1/start", {"Detach": True}) == (200, b"")
    assert execs.started
    status, body = await ask(ExecRoutes(execs).routes(), "POST /exec/e2/start", {"Detach": True})
    assert (status, body) == (404, {"message": "No such exec instance: e2"})
    execs = _Execs(ExecConfig(), Conflict("the container is paused"))
    assert (await ask(ExecRoutes(execs).routes(), "POST /exec/e1/start", {"Detach": True}))[0] == 409


@pytest.mark.parametrize("size", [[1], [1, 2, 3], [-1, 1], [1, 65536]])
async def test_console_sizes_that_are_refused(size: Any) -> None:
    routes = ExecRoutes(_Execs(ExecConfig())).routes()
    assert (await ask(routes, "POST /exec/e1/start", {"Detach": True, "ConsoleSize": size}))[0] == 400


async def test_resize() -> None:
    execs = _Execs(ExecConfig())
    assert await ask(ExecRoutes(execs).routes(), "POST /exec/e1/resize?h=25&w=80") == (200, b"")
    assert execs.resized == (25, 80)
    assert (await ask(ExecRoutes(execs).routes(), "POST /exec/e1/resize?h=25"))[0] == 400


async def test_inspect() -> None:
    execs = _Execs(ExecConfig(user="app", attach_stdin=True, detach_keys="a"))
    assert await ask(ExecRoutes(execs).routes(), "GET /exec/e1/json") == (
        200,
        {
            "ID": "e1",
            "Running": True,
            "ExitCode": None,
            "ProcessConfig": {
                "tty": False,
                "entrypoint": "sh",
                "arguments": ["-c", "ls"],
                "privileged": False,
                "user": "app",
            },
            "OpenStdin": True,
            "OpenStderr": False,
            "OpenStdout": False,
            "CanRemove": False,
            "ContainerID": "c1",
            "DetachKeys": "a",
            "Pid": 7,
        },
    )
    await trio.lowlevel.checkpoint()
