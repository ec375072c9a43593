"""`vch version`, `vch dump` and `vch trace`: questions to a running vchd, over its API."""

import argparse
import contextlib
import http.client
import json
import socket
import sys
import urllib.parse

from appliance import __version__

_DEFAULT = "unix:///var/run/docker.sock"


def _get(host: str, path: str) -> bytes:
    """The body of a GET. OSError when the daemon does not answer, or not with status 200."""
    with contextlib.closing(_connection(host)) as connection:
        if host.startswith("unix://"):
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.connect(host.removeprefix("unix://"))
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    if response.status != 200:
        raise OSError(f"{host} answered {response.status}: {body.decode('utf-8', 'replace').strip()}")
    return body


def _connection(host: str) -> http.client.HTTPConnection:
    if host.startswith("unix://"):
        return http.client.HTTPConnection("vchd")
    return http.client.HTTPConnection(host.removeprefix("tcp://"), timeout=10)


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the three commands."""
    for name, text in (
        ("version", "show the versions of vch and of a daemon"),
        ("dump", "show every task of a daemon, and where the task waits"),
        ("trace", "show the timeline of a container's last start, in ms"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument(
            "-H",
            "--host",
            default=_DEFAULT,
            help=f"The daemon, unix:///path or tcp://address:port (default: {_DEFAULT})",
        )
        if name == "trace":
            command.add_argument("container", help="Name or id of the container")


def run(options: argparse.Namespace) -> str | None:
    """Run the command of the options. Returns an error text, or None."""
    try:
        if options.command == "version":
            print(f"vch {__version__}")
            daemon = json.loads(_get(options.host, "/version"))
            versions = {part["Name"]: part["Version"] for part in daemon["Components"]}
            # vchd 0.1 reported its own version as that of the engine.
            own = versions.pop("vch", daemon["Version"])
            parts = ", ".join(f"{name} {version}" for name, version in versions.items())
            print(f"vchd {own}, API {daemon['MinAPIVersion']} to {daemon['ApiVersion']}: {parts}")
        elif options.command == "trace":
            sys.stdout.write(_get(options.host, f"/vch/debug/trace/{urllib.parse.quote(options.container)}").decode())
        else:
            sys.stdout.write(_get(options.host, "/vch/debug/dump").decode())
    except OSError as error:
        return f"vch: {error}"
    return None
