"""The command line of `vch`: commands, exit statuses, errors without a traceback."""

import argparse
import sys

import pytest
import trio

from appliance.cli import main, show
from appliance.cli.report import FAILED, NOT_FOUND, REFUSED, USAGE, Ended, Report
from appliance.errors import HypervisorError, InvalidParameter, NotFound

_TARGET = ("--target", "vc.example", "--user", "admin")


@pytest.mark.parametrize(
    "words",
    [
        ("create", "--ova", "x"),
        ("ls",),
        ("inspect", "prod"),
        ("configure", "prod"),
        ("upgrade", "prod", "--commit"),
        ("update", "firewall", "--allow"),
        ("debug", "prod"),
        ("logs", "prod"),
        ("delete", "prod"),
    ],
)
def test_each_command_has_its_target(words: tuple[str, ...]) -> None:
    options = main.parser().parse_args([*words, *_TARGET])
    assert (options.target, options.user, options.json) == ("vc.example", "admin", False)
    assert callable(options.run)
    with pytest.raises(SystemExit):
        main.parser().parse_args(words)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Ended(REFUSED, "refused"), REFUSED),
        (InvalidParameter("wrong"), USAGE),
        (NotFound("none"), NOT_FOUND),
        (HypervisorError("broken"), FAILED),
        (OSError("broken"), FAILED),
        (ExceptionGroup("many", [NotFound("none")]), NOT_FOUND),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_statuses(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def fail(options: argparse.Namespace, report: Report) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    monkeypatch.setattr(show, "run_list", fail)
    monkeypatch.setattr("os.umask", lambda _: 0)
    monkeypatch.setattr(sys, "argv", ["vch", "ls", *_TARGET])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert caught.value.code == status
    assert capsys.readouterr().err.startswith("vch: ")
