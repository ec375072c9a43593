"""The process of vchd: one per data root, until a signal ends it."""

import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance import main
from appliance.errors import Conflict


def test_one_daemon_per_data_root(tmp_path: Path) -> None:
    root = tmp_path / "data"
    with main._lock(root):
        with pytest.raises(Conflict) as caught, main._lock(root):
            raise AssertionError("it is locked")
        assert str(caught.value) == f"{root} is in use by another vchd"
        with main._lock(tmp_path / "other"):
            pass
    with main._lock(root):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signals(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    ended = trio.Event()

    async def wait() -> None:
        await main._wait_for_end()
        ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGUSR1)
        await wait_all_tasks_blocked(0.01)
        assert not ended.is_set()
        assert "test_signals.<locals>.wait" in capsys.readouterr().err
        os.kill(os.getpid(), number)
        with trio.fail_after(10):
            await ended.wait()


def test_a_setting_that_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["vchd", "--config-file", str(tmp_path / "missing.json")])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert str(caught.value.code).startswith("vchd: ")
    assert "missing.json" in str(caught.value.code)
