"""`vch`: the operator's commands, in the order of the documentation (README.md)."""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable

import shtab
import trio

from appliance.cli import configure, create, daemon, debug, delete, firewall, logs, show, target, upgrade
from appliance.cli.report import FAILED, NOT_FOUND, USAGE, Ended, Report
from appliance.errors import InvalidParameter, NotFound, VchError, leaves

_STATUSES = """exit status: 0 done; 1 it failed; 2 the options are wrong; 3 it was refused, and nothing was changed; 4 there is no such
appliance; 5 the appliance was made and does not answer"""
Command = Callable[[argparse.Namespace, Report], Awaitable[None]]


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(prog="vch", description="Operate virtual container hosts.", epilog=_STATUSES)
    shtab.add_argument_to(top, ["--print-completion"], help="of bash, zsh or tcsh: eval it in your shell")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, add: Callable[[argparse.ArgumentParser], None], run: Command) -> None:
        one = commands.add_parser(name, help=text, description=text, epilog=_STATUSES)
        _finish(one, add, run)

    command("create", "make an appliance", create.add_arguments, create.run)
    command("ls", "appliances that are there", show.add_list_arguments, show.run_list)
    command("inspect", "what an appliance is and was told", show.add_inspect_arguments, show.run_inspect)
    command("configure", "tell an appliance something else", configure.add_arguments, configure.run)
    command("upgrade", "a newer version under an appliance, or back", upgrade.add_arguments, upgrade.run)
    update = commands.add_parser("update", help="firewall: what hosts let through").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    _finish(
        update.add_parser("firewall", help="let machines' serial ports out of hosts, or not"),
        firewall.add_arguments,
        firewall.run,
    )
    command("debug", "SSH to an appliance, for a time", debug.add_arguments, debug.run)
    command("logs", "all that tells what an appliance did, in one file", logs.add_arguments, logs.run)
    command("delete", "remove an appliance with its containers", delete.add_arguments, delete.run)
    daemon.add_commands(commands)
    return top


def _finish(one: argparse.ArgumentParser, add: Callable[[argparse.ArgumentParser], None], run: Command) -> None:
    add(one)
    target.add_arguments(one)
    one.add_argument("--json", action="store_true", help="one JSON object on standard output, and nothing else")
    one.set_defaults(run=run)


def _status_of(error: BaseException) -> int:
    match error:
        case Ended():
            return error.status
        case InvalidParameter():
            return USAGE
        case NotFound():
            return NOT_FOUND
    return FAILED


def run() -> None:
    """The console script `vch`."""
    options = parser().parse_args()
    if not hasattr(options, "run"):
        sys.exit(daemon.run(options))
    report = Report(as_json=options.json)
    # Keys and certificates.
    os.umask(0o077)
    try:
        trio.run(options.run, options, report)
    except (VchError, OSError, KeyboardInterrupt, BaseExceptionGroup) as error:
        first = leaves(error)[0]
        if isinstance(first, KeyboardInterrupt):
            report.failure("given up")
            sys.exit(130)
        if not isinstance(first, VchError | OSError):
            raise
        report.failure(str(first))
        sys.exit(_status_of(first))
