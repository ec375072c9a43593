"""`vch version` and `vch debug dump|trace`."""

import argparse
import http.client
import json
import socket
import sys
import urllib.parse

from appliance import __version__

_DEFAULT = "unix:///var/run/docker.sock"


def _get(host: str, path: str) -> bytes:
    """GET from a daemon; OSError when it does not answer."""
    connection: http.client.HTTPConnection
    if host.startswith("unix://"):
        connection = http.client.HTTPConnection("vchd")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(host.removeprefix("unix://"))
    else:
        connection = http.client.HTTPConnection(host.removeprefix("tcp://"), timeout=10)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise OSError(f"{host} answered {response.status}: {body.decode('utf-8', 'replace').strip()}")
    return body


def run() -> None:
    parser = argparse.ArgumentParser(prog="vch", description="Operate a virtual container host.")
    parser.add_argument("-H", "--host", default=_DEFAULT, help="the daemon: unix:///path or tcp://address:port")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("version", help="versions of this program and of the daemon")
    debug = commands.add_parser("debug", help="look into a running daemon").add_subparsers(dest="what", required=True)
    debug.add_parser("dump", help="every task and where it waits")
    trace = debug.add_parser("trace", help="the timeline of a container's last start, in ms")
    trace.add_argument("container")
    options = parser.parse_args()
    try:
        if options.command == "version":
            print(f"vch {__version__}")
            daemon = json.loads(_get(options.host, "/version"))
            parts = ", ".join(f"{part['Name']} {part['Version']}" for part in daemon["Components"])
            print(f"vchd {daemon['Version']}, API {daemon['MinAPIVersion']} to {daemon['ApiVersion']}: {parts}")
        elif options.what == "trace":
            sys.stdout.write(_get(options.host, f"/vch/debug/trace/{urllib.parse.quote(options.container)}").decode())
        else:
            sys.stdout.write(_get(options.host, "/vch/debug/dump").decode())
    except OSError as error:
        sys.exit(f"vch: {error}")
