"""What clients see of the containers of an earlier vchd right after its restart: what dockerd with live-restore shows.

dockerd opens its API when it has restored all containers (moby's daemon/command/daemon.go and daemon/daemon.go).
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.streams import stdcopy
from tests.appliance.engine.guest import Process
from tests.appliance.engine.harness import Engine, Host, engine
from tests.appliance.http.wire import Client, served

_CLOSE = "Connection: close\r\n"
_UPGRADE = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
_WEBSOCKET = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


async def parrot(process: Process) -> int:
    """Write "down" at a signal, and each input; end at the end of stdin, or at SIGTERM."""

    async def obey() -> None:
        while (number := await process.wait_signal()) != 15:
            process.write("down\n")
            if number == 12:
                break
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(obey)
        while data := await process.read():
            process.write(f"heard {data.decode()}")
        nursery.cancel_scope.cancel()
    return 3


@asynccontextmanager
async def hijacked(daemon: Engine, line: str, headers: str = _UPGRADE) -> AsyncIterator[Client]:
    """A connection whose request is sent. Its head is not read yet."""
    async with served(daemon.router) as client:
        await client.send(f"{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        yield client


async def head_of(client: Client) -> bytes:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = await client.receive(1)
        assert piece, head
        head += piece
    return head


async def ask(daemon: Engine, line: str, headers: str = _CLOSE) -> tuple[int, Any]:
    """The status and the body, decoded if it has a length."""
    async with hijacked(daemon, line, headers) as client:
        head = await head_of(client)
        length = re.search(rb"Content-Length: (\d+)", head)
        content = await client.receive(int(length[1]) if length else 1 << 20)
    return int(head.split()[1]), json.loads(content) if length and content else content


@asynccontextmanager
async def restarted(
    nursery: trio.Nursery,
    folder: Path,
    *signals: int,
    tty: bool = False,
    pause: bool = False,
    policy: str = "",
) -> AsyncIterator[Engine]:
    """A new daemon that has not reached the guest of `web` yet. The process got `signals` while no daemon ran."""
    folder.mkdir(exist_ok=True)
    host = Host(nursery, parrot=parrot)
    async with engine(host, folder) as daemon:
        config = ContainerConfig(open_stdin=True, stdin_once=True, tty=tty)
        container = await daemon.create(
            "parrot", name="web", config=config, host=HostConfig(restart_policy=RestartPolicy(policy, 0))
        )
        await daemon.start(container)
        if pause:
            await daemon.services.signals.pause("web")
    process = host.guest.process(container.id)
    for number in signals:
        process.signal(number)
    while 15 in signals and not process.spool.closed:
        await process.spool.wait_news()
    async with engine(host, folder) as daemon:
        assert daemon.registry.get("web").run is None, "this test has come too late"
        yield daemon


async def test_attach_continues(tmp_path: Path, nursery: trio.Nursery) -> None:
    attach = "POST /containers/web/attach?stream=1&stdin=1&stdout=1&stderr=1"
    async with restarted(nursery, tmp_path, 10) as daemon, hijacked(daemon, f"{attach}&logs=1") as client:
        assert (await head_of(client)).startswith(b"HTTP/1.1 101 ")
        await client.expect(stdcopy.frame(1, b"down\n"))
        await client.send(b"words\n")
        await client.expect(stdcopy.frame(1, b"heard words\n"))
        # As StdinOnce says: the end of this client's input ends the process's.
        client.end()
        await client.expect_end()
        assert (await ask(daemon, "POST /containers/web/wait"))[0] == 200
        assert daemon.registry.get("web").record.exit_code == 3


async def test_attach_to_a_terminal_and_by_websocket(tmp_path: Path, nursery: trio.Nursery) -> None:
    attach = "POST /containers/web/attach?stream=1&stdin=1&stdout=1"
    async with restarted(nursery, tmp_path, 10, tty=True) as daemon:
        async with (
            hijacked(daemon, attach) as client,
            hijacked(daemon, "GET /containers/web/attach/ws?stream=1&stdout=1", _WEBSOCKET) as socket,
        ):
            assert (await ask(daemon, "POST /containers/web/resize?h=20&w=70"))[0] == 200
            assert (await head_of(client)).startswith(b"HTTP/1.1 101 ")
            assert (await head_of(socket)).startswith(b"HTTP/1.1 101 ")
            await client.send(b"words\n")
            # What the process wrote while no daemon ran is in the log, as with dockerd.
            await client.expect(b"heard words\n")
            await socket.expect(b"\x82\x0cheard words\n")
            assert b"down\nheard words\n" in (await ask(daemon, "GET /containers/web/logs?stdout=1"))[1]
            assert (await ask(daemon, "POST /containers/web/kill"))[0] == 204
            await client.expect_end()


async def test_logs_of_the_time_without_a_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with restarted(nursery, tmp_path, 10) as daemon:
        assert (await ask(daemon, "GET /containers/web/logs?stdout=1"))[1].endswith(b"down\n\r\n0\r\n\r\n")
        status, sample = await ask(daemon, "GET /containers/web/stats?stream=0&one-shot=1")
        assert (status, sample["pids_stats"]) == (200, {"current": 1})


async def ask_together(daemon: Engine, asks: dict[str, str]) -> dict[str, tuple[int, Any]]:
    """The answers to requests (with their headers) that all arrive before the guest has answered."""
    answers: dict[str, tuple[int, Any]] = {}

    async def one(line: str, headers: str) -> None:
        answers[line] = await ask(daemon, line, headers)

    async with trio.open_nursery() as nursery:
        for line, headers in asks.items():
            nursery.start_soon(one, line, headers)
    return answers


async def test_a_paused_container_is_paused(tmp_path: Path, nursery: trio.Nursery) -> None:
    attach = "POST /containers/web/attach?stream=1&stdout=1"
    websocket = "GET /containers/web/attach/ws?stream=1&stdout=1"
    listed = 'GET /containers/json?filters={"status":["paused"]}'
    shown = "GET /containers/web/json"
    async with restarted(nursery, tmp_path, pause=True) as daemon:
        answers = await ask_together(daemon, {attach: _UPGRADE, websocket: _WEBSOCKET, listed: _CLOSE, shown: _CLOSE})
    refused = 409, {"message": "container web is paused, unpause the container before attach"}
    assert answers[attach] == answers[websocket] == refused
    assert [one["Names"] for one in answers[listed][1]] == [["/web"]]
    assert answers[shown][1]["State"]["Paused"]
    async with restarted(nursery, tmp_path / "again", pause=True) as daemon:
        assert await ask(daemon, "POST /containers/web/unpause") == (204, b"")


async def test_a_container_that_ended_without_a_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    name = "/containers/web"
    asks = {
        "GET /containers/json?all=1": "exited",
        f"GET {name}/json": "exited",
        f"POST {name}/wait": b'{"StatusCode":3}',
        f"GET {name}/logs?stdout=1&follow=1": b"down\n",
        f"GET {name}/stats?stream=0": b"",
        f"POST {name}/resize?h=20&w=70": "container {id} is not running",
        f"GET {name}/top": "container {id} is not running",
        f"POST {name}/pause": "container {id} is not running",
        f"POST {name}/kill": "cannot kill container: web: container {id} is not running",
        f"POST {name}/stop": b"",
    }
    async with restarted(nursery, tmp_path, 10, 15) as daemon:
        container = daemon.registry.get("web")
        answers = await ask_together(daemon, dict.fromkeys(asks, _CLOSE))
    for line, expected in asks.items():
        status, body = answers[line]
        match body:
            case bytes():
                assert isinstance(expected, bytes)
                assert expected in body, line
            case [{"State": state}] | {"State": {"Status": state}}:
                assert state == expected, line
            case {"message": message}:
                assert (status, message) == (409, str(expected).format(id=container.id)), line
            case _:
                assert (body["name"], body["pids_stats"]) == ("/web", {}), line
    async with restarted(nursery, tmp_path / "again", 15) as daemon:
        assert await ask(daemon, f"POST {name}/start") == (204, b"")
        assert daemon.registry.get("web").running


async def test_a_container_that_restarts(tmp_path: Path, nursery: trio.Nursery) -> None:
    """As moby's daemon/attach.go."""
    async with restarted(nursery, tmp_path, 15, policy="always") as daemon:
        refused = {"message": "container web is restarting, wait until the container is running"}
        assert await ask(daemon, "POST /containers/web/attach?stream=1&stdout=1", _UPGRADE) == (409, refused)
