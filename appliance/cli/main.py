"""The command line of `vch`, with the commands in the order of README.md."""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable

import shtab
import trio

from appliance.cli import configure, create, daemon, debug, delete, firewall, logs, show, target, upgrade
from appliance.cli.report import FAILED, NOT_FOUND, USAGE, Ended, Report
from appliance.errors import InvalidParameter, NotFound, VchError, leaves

_STATUSES = """exit status: 0 success; 1 failure; 2 wrong options; 3 refused, nothing was changed; 4 no such appliance; 5 the appliance does
not answer in time"""
Command = Callable[[argparse.Namespace, Report], Awaitable[None]]


def parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    top = argparse.ArgumentParser(
        prog="vch", description="Deploy and manage virtual container hosts on vSphere.", epilog=_STATUSES
    )
    shtab.add_argument_to(
        top, ["--print-completion"], help="Print shell completion for bash, zsh or tcsh; eval it in your shell"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, add: Callable[[argparse.ArgumentParser], None], run: Command) -> None:
        added = commands.add_parser(name, help=text, description=text, epilog=_STATUSES)
        _finish(added, add, run)

    command("create", "deploy an appliance", create.add_arguments, create.run)
    command("ls", "list appliances", show.add_list_arguments, show.run_list)
    command("inspect", "show an appliance and its settings", show.add_inspect_arguments, show.run_inspect)
    command("configure", "change settings of an appliance", configure.add_arguments, configure.run)
    command("upgrade", "upgrade an appliance, or roll back", upgrade.add_arguments, upgrade.run)
    update = commands.add_parser("update", help="firewall: change the ESXi hosts' firewalls").add_subparsers(
        dest="what", required=True, metavar="WHAT"
    )
    _finish(
        update.add_parser("firewall", help="allow or block the serial ports of VMs in the ESXi hosts' firewalls"),
        firewall.add_arguments,
        firewall.run,
    )
    command("debug", "open SSH to an appliance for a limited time", debug.add_arguments, debug.run)
    command("logs", "collect logs of an appliance in one archive", logs.add_arguments, logs.run)
    command("delete", "delete an appliance and its containers", delete.add_arguments, delete.run)
    daemon.add_commands(commands)
    return top


def _finish(command: argparse.ArgumentParser, add: Callable[[argparse.ArgumentParser], None], run: Command) -> None:
    add(command)
    target.add_arguments(command)
    command.add_argument(
        "--json", action="store_true", help="Print one JSON object on standard output, and nothing else"
    )
    command.set_defaults(run=run)


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
    # Commands write private keys.
    os.umask(0o077)
    try:
        trio.run(options.run, options, report)
    except (VchError, OSError, KeyboardInterrupt, BaseExceptionGroup) as error:
        first = leaves(error)[0]
        if isinstance(first, KeyboardInterrupt):
            report.failure("interrupted")
            sys.exit(130)
        if not isinstance(first, VchError | OSError):
            raise
        report.failure(str(first))
        sys.exit(_status_of(first))
