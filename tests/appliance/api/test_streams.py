"""Attach and logs: which head is sent, which streams, and what is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from appliance.api.router import Router
from appliance.api.streams import StreamRoutes
from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig, LogConfig
from appliance.guest import Fanout
from appliance.streams import stdcopy
from appliance.streams.logfile import LogFile
from tests.appliance.api.asking import ask
from tests.appliance.http.wire import served

_RAW = b"application/vnd.docker.raw-stream"
_MULTIPLEXED = b"application/vnd.docker.multiplexed-stream"


class _Box:
    """A container that has printed "out" and "err" and does not run."""

    def __init__(self, folder: Path, *, tty: bool = False, driver: str = "json-file") -> None:
        self.tty = tty
        self.fanout = Fanout()
        self.stdin = None
        self.running = self.removed = False
        self.log_news = trio.Event()
        options = {"labels": "color", "tag": "{{.Name}}"}
        config = ContainerConfig(labels={"color": "dark red"})
        host_config = HostConfig(log_config=LogConfig(driver, options))
        self.record = ContainerRecord("c1", "box", 0, "sha256:1", "busybox", config, host_config)
        self._log = LogFile(folder, framed=not tty)
        self._log.append(1, 1_000_000_000, 4, b"out\n")
        self._log.append(1 if tty else 2, 2_000_000_000, 8, b"err\n")

    def open_log(self) -> LogFile:
        return self._log


def _routes(box: _Box) -> Any:
    registry: Any = SimpleNamespace(get=lambda ref: box)
    containers: Any = SimpleNamespace(attached=lambda ref: None)
    return StreamRoutes(registry, containers).routes()


async def _answer(box: _Box, line: str, headers: str = "") -> tuple[bytes, bytes]:
    """The head and the body."""
    router = Router()
    router.add_all(_routes(box))
    async with served(router) as client:
        await client.send(f"{line} HTTP/1.0\r\n{headers}\r\n".encode())
        head, _, body = (await client.receive(1 << 16)).partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("stdout=1&stderr=1", stdcopy.frame(1, b"out\n") + stdcopy.frame(2, b"err\n")),
        ("stdout=1", stdcopy.frame(1, b"out\n")),
        ("stderr=1&tail=5", stdcopy.frame(2, b"err\n")),
        ("stdout=1&stderr=1&tail=1", stdcopy.frame(2, b"err\n")),
        ("stdout=1&stderr=1&since=2", stdcopy.frame(2, b"err\n")),
        ("stdout=1&stderr=1&until=1", stdcopy.frame(1, b"out\n")),
        ("stdout=1&timestamps=1", stdcopy.frame(1, b"1970-01-01T00:00:01.000000000Z out\n")),
        ("stdout=1&details=1", stdcopy.frame(1, b"color=dark+red,tag=box out\n")),
        (
            "stdout=1&details=1&timestamps=1&until=1",
            stdcopy.frame(1, b"1970-01-01T00:00:01.000000000Z color=dark+red,tag=box out\n"),
        ),
        ("stdout=1&follow=1", stdcopy.frame(1, b"out\n")),
    ],
)
async def test_logs(tmp_path: Path, query: str, text: bytes) -> None:
    head, body = await _answer(_Box(tmp_path), f"GET /containers/box/logs?{query}")
    assert body == text
    assert b"Content-Type: " + _MULTIPLEXED in head


async def test_logs_of_a_terminal_and_of_an_old_client(tmp_path: Path) -> None:
    head, body = await _answer(_Box(tmp_path, tty=True), "GET /containers/box/logs?stderr=1")
    assert (body, _RAW in head) == (b"out\nerr\n", True)
    head, _ = await _answer(_Box(tmp_path), "GET /v1.41/containers/box/logs?stderr=1")
    assert _RAW in head


async def test_logs_that_are_refused(tmp_path: Path) -> None:
    box = _Box(tmp_path)
    assert await ask(_routes(box), "GET /containers/box/logs") == (
        400,
        {"message": "Bad parameters: you must choose at least one stream"},
    )
    box = _Box(tmp_path, driver="none")
    assert await ask(_routes(box), "GET /containers/box/logs?stdout=1") == (
        501,
        {"message": "configured logging driver does not support reading"},
    )


@pytest.mark.parametrize(
    ("version", "headers", "line", "kind"),
    [
        ("1.51", "Connection: Upgrade\r\nUpgrade: tcp\r\n", b"HTTP/1.1 101 UPGRADED", _MULTIPLEXED),
        ("1.41", "Connection: Upgrade\r\nUpgrade: tcp\r\n", b"HTTP/1.1 101 UPGRADED", _RAW),
        ("1.51", "", b"HTTP/1.1 200 OK", _RAW),
    ],
)
async def test_heads_of_attach(tmp_path: Path, version: str, headers: str, line: bytes, kind: bytes) -> None:
    head, body = await _answer(
        _Box(tmp_path), f"POST /v{version}/containers/box/attach?logs=1&stdout=1&stderr=1", headers
    )
    assert head.startswith(line)
    assert b"Content-Type: " + kind in head
    assert body == stdcopy.frame(1, b"out\n") + stdcopy.frame(2, b"err\n")


async def test_attach_refusals_come_before_the_hijack(tmp_path: Path) -> None:
    status, body = await ask(_routes(_Box(tmp_path)), "POST /containers/box/attach?stream=1&detachKeys=ctrl-?")
    assert (status, body) == (400, {"message": "Unknown character: 'ctrl-?'"})
    status, body = await ask(_routes(_Box(tmp_path)), "GET /containers/box/attach/ws?stream=1")
    assert (status, body["message"].startswith("not a WebSocket handshake")) == (400, True)
