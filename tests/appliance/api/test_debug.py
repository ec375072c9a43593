"""What operators read: tasks, the daemon's own log, traces."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from appliance.api.debug import DebugRoutes
from appliance.diag.logfile import LOG_NAME
from tests.appliance.api.asking import ask


async def test_dump_shows_tasks(tmp_path: Path) -> None:
    containers: Any = None
    status, text = await ask(DebugRoutes(containers, tmp_path).routes(), "GET /vch/debug/dump")
    assert status == 200
    assert b"serve_connection" in text


async def test_the_log_begins_with_its_oldest_part(tmp_path: Path) -> None:
    (tmp_path / LOG_NAME).write_text("newest\n")
    (tmp_path / f"{LOG_NAME}.1").write_text("newer\n")
    (tmp_path / f"{LOG_NAME}.2").write_text("oldest\n")
    containers: Any = None
    status, text = await ask(DebugRoutes(containers, tmp_path).routes(), "GET /vch/debug/log")
    assert (status, text) == (200, b"7\r\noldest\n\r\n6\r\nnewer\n\r\n7\r\nnewest\n\r\n0\r\n\r\n")


async def test_a_trace(tmp_path: Path) -> None:
    box = SimpleNamespace(trace=SimpleNamespace(text=lambda: "0.1 machine\n"))
    containers: Any = SimpleNamespace(get=lambda ref: box)
    assert await ask(DebugRoutes(containers, tmp_path).routes(), "GET /vch/debug/trace/box") == (200, b"0.1 machine\n")
