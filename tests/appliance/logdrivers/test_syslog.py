"""The syslog driver: a real server on the loopback device, a real log file, no container."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.container.container_record import ContainerRecord
from appliance.errors import InvalidParameter
from appliance.logdrivers import LogLimits, ShippingDriver, driver_named
from appliance.streams.logfile import LogFile
from tests.appliance.logdrivers.records import record_with


async def until(test: Callable[[], bool]) -> None:
    while not test():  # noqa: ASYNC110
        await trio.sleep(0.01)


@dataclass
class _Log:
    """A container's log, as the engine shows it to a driver."""

    folder: Path
    record: ContainerRecord
    log_news: trio.Event = field(default_factory=trio.Event)
    removed: bool = False
    running: bool = True
    file: LogFile | None = None

    def open_log(self) -> LogFile:
        if self.file is None:
            self.file = LogFile(self.folder, framed=True)
        return self.file

    def write(self, stream: int, text: str) -> None:
        file = self.open_log()
        data = text.encode()
        file.append(stream, 1_700_000_000_000_000_000, file.guest_offset + len(data), data)
        self.notify()

    def end(self) -> None:
        self.running = False
        self.notify()

    def notify(self) -> None:
        news, self.log_news = self.log_news, trio.Event()
        news.set()


def _log(folder: Path, **options: str) -> _Log:
    return _Log(folder, record_with("syslog", {"syslog-format": "rfc5424", **options}))


def _driver() -> ShippingDriver:
    driver = driver_named("syslog")
    assert isinstance(driver, ShippingDriver)
    return driver


class _Server:
    """Takes lines over TCP."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.connections: list[trio.SocketStream] = []
        self.port = 0

    async def take(self, stream: trio.SocketStream) -> None:
        self.connections.append(stream)
        rest = b""
        try:
            async for data in stream:
                *whole, rest = (rest + data).split(b"\n")
                self.lines += [line.decode() for line in whole]
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            pass

    async def wait(self, count: int) -> list[str]:
        with trio.fail_after(10):
            await until(lambda: len(self.lines) >= count)
        return self.lines


@asynccontextmanager
async def _serving(port: int = 0) -> AsyncIterator[_Server]:
    server = _Server()
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        server.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, server.take, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def test_entries_are_sent_as_they_come_and_the_run_ends_when_all_are_sent(tmp_path: Path) -> None:
    async with _serving() as server:
        log = _log(tmp_path, **{"syslog-address": f"tcp://127.0.0.1:{server.port}", "tag": "{{.Name}}/{{.ID}}"})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_driver().ship, log)
            log.write(1, "to stdout\n")
            await server.wait(1)
            log.write(2, "to stderr\n")
            await server.wait(2)
            log.write(1, "without an end of line")
            log.end()
        lines = await server.wait(3)
    assert [re.sub(r" \d+ ", " PID ", line, count=1) for line in lines] == [
        re.sub(r" HOST ", f" {line.split()[2]} ", wanted)
        for line, wanted in zip(
            lines,
            (
                "<30>1 2023-11-14T22:13:20Z HOST name/0123456789ab PID name/0123456789ab - to stdout",
                "<27>1 2023-11-14T22:13:20Z HOST name/0123456789ab PID name/0123456789ab - to stderr",
                "<30>1 2023-11-14T22:13:20Z HOST name/0123456789ab PID name/0123456789ab - without an end of line",
            ),
            strict=True,
        )
    ]
    assert (tmp_path / "log.sent").read_text() == "3"


async def test_a_new_vchd_goes_on_where_the_one_before_was(tmp_path: Path) -> None:
    async with _serving() as server:
        log = _log(tmp_path, **{"syslog-address": f"tcp://127.0.0.1:{server.port}"})
        for number in range(5):
            log.write(1, f"line {number}\n")
        (tmp_path / "log.sent").write_text("3")
        log.end()
        await _driver().ship(log)
        assert [line.rsplit(" - ", 1)[1] for line in await server.wait(2)] == ["line 3", "line 4"]


async def test_a_run_does_not_send_the_log_of_the_run_before(tmp_path: Path) -> None:
    async with _serving() as server:
        log = _log(tmp_path, **{"syslog-address": f"tcp://127.0.0.1:{server.port}"})
        log.write(1, "of an earlier run\n")
        log.record.run_first_entry = 1
        log.write(1, "of this run\n")
        log.end()
        await _driver().ship(log)
        assert [line.rsplit(" - ", 1)[1] for line in await server.wait(1)] == ["of this run"]


async def test_a_server_that_comes_back_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("appliance.logdrivers.syslog._RETRY_SECONDS", 0.01)
    async with _serving() as server:
        port = server.port
    log = _log(tmp_path, **{"syslog-address": f"tcp://127.0.0.1:{port}"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_driver().ship, log)
        log.write(1, "while the server is away\n")
        with trio.fail_after(10):
            await until(lambda: "cannot send the log of container 0123456789ab, will retry" in caplog.text)
        async with _serving(port) as server:
            assert (await server.wait(1))[0].endswith(" - while the server is away")
            log.end()
            with trio.fail_after(10):
                await until(lambda: (tmp_path / "log.sent").read_text() == "1")
    # One warning, however many attempts.
    assert caplog.text.count("will retry") == 1


async def test_a_server_that_stays_away_is_tried_until_the_container_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.logdrivers.syslog._RETRY_SECONDS", 0.001)
    log = _log(tmp_path, **{"syslog-address": f"unix://{tmp_path}/nothing"})
    log.write(1, "nobody reads this\n")
    log.end()
    with trio.fail_after(10):
        with trio.move_on_after(0.1) as scope:
            await _driver().ship(log)
        assert scope.cancelled_caught
        log.removed = True
        await _driver().ship(log)
    assert (tmp_path / "log.sent").read_text() == "0"


async def test_datagrams_on_a_unix_socket(tmp_path: Path) -> None:
    socket = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_DGRAM)
    await socket.bind(str(tmp_path / "dev-log"))
    log = _log(tmp_path, **{"syslog-address": f"unixgram://{tmp_path}/dev-log", "syslog-facility": "local0"})
    log.write(1, "x" * 100_000 + "\n")
    log.end()
    await _driver().ship(log)
    message = await socket.recv(1 << 20)
    socket.close()
    assert message.startswith(b"<134>1 ")
    # A long line is cut.
    assert message.count(b"x") == 16 << 10


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max-size": "1m"}, "unknown log opt 'max-size' for syslog log driver"),
        ({"syslog-address": "x"}, "syslog-address should be in form proto://address, got x"),
        ({"syslog-facility": "x"}, "invalid syslog facility"),
        ({"syslog-format": "x"}, "Invalid syslog format"),
        ({"cache-max-file": "0"}, "max-file cannot be less than 1"),
    ],
)
def test_wrong_options(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        _driver().check(options)
    assert str(caught.value) == text


def test_the_limits_are_those_of_the_cache() -> None:
    assert _driver().limits({}) == LogLimits(20 << 20, 5)
    assert _driver().limits({"cache-max-size": "1m"}) == LogLimits(1 << 20, 5)
    assert _driver().check({"tag": "{{.Name}}"}) == []
