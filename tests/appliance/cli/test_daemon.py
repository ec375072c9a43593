"""`vch version`, `dump` and `trace`, with a small HTTP server as the daemon."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from appliance import __version__
from appliance.cli import daemon
from appliance.cli.main import parser

_VERSION = {
    "Components": [{"Name": "Engine", "Version": "28"}, {"Name": "vch", "Version": "2.0"}],
    "Version": "28",
    "MinAPIVersion": "1.24",
    "ApiVersion": "1.51",
}


class _Daemon(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        bodies = {"/version": json.dumps(_VERSION), "/vch/debug/dump": "tasks", "/vch/debug/trace/web": "0 ms"}
        self.send_response(200 if self.path in bodies else 404)
        self.end_headers()
        self.wfile.write(bodies.get(self.path, "no such thing").encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Tests need no log."""


@pytest.fixture
def address() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Daemon) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"tcp://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_answers_are_printed(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words, text in (
        (["version"], f"vch {__version__}\nvchd 2.0, API 1.24 to 1.51: Engine 28\n"),
        (["dump"], "tasks"),
        (["trace", "web"], "0 ms"),
    ):
        assert daemon.run(parser().parse_args([*words, "-H", address])) is None
        assert capsys.readouterr().out == text


def test_other_answers_are_errors(address: str) -> None:
    error = daemon.run(parser().parse_args(["trace", "other", "-H", address]))
    assert error == f"vch: {address} answered 404: no such thing"
    assert str(daemon.run(parser().parse_args(["dump", "-H", "unix:///nowhere/socket"]))).startswith("vch: ")
