"""A network with a neighbour: a bridge, and on it a host that serves DHCP, DNS and a page that names its client."""

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

GATEWAY, SUBNET = "198.51.100.1", "198.51.100.0/24"
NAME = "printer.lan.example"
PORT = 8000
_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())
    def log_message(self, *_): pass
http.server.HTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""
# Seconds to wait for an expected answer, and to see that no answer comes.
_PATIENCE, _GLANCE = 10, 1.5
_CLIENT = (
    "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=float(sys.argv[2])).read().decode())"
)


class Neighbour:
    """The neighbour: a host in a network namespace of its own."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def fetch(self, address: str, port: int, *, served: bool = True) -> str:
        """The page that the neighbour gets from this address; "" if none. `served`: whether to expect a page, and so wait longer."""
        seconds = _PATIENCE if served else _GLANCE
        return self.run("python3", "-c", _CLIENT, f"http://{address}:{port}/", str(seconds)).stdout.strip()

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run([*inside(self.namespace), *command], capture_output=True, text=True, check=False)


def inside(namespace: str) -> list[str]:
    return ["nsenter", f"--net=/run/netns/{namespace}", "--"]


@contextlib.contextmanager
def running_lan(namespace: str, bridge: str, folder: Path) -> Iterator[Neighbour]:
    """A bridge of this name in a namespace, and the neighbour on it; both are removed at the end of the block."""
    there = f"{namespace}-l"
    for command in (
        ("netns", "add", there),
        ("-n", there, "link", "set", "lo", "up"),
        ("-n", namespace, "link", "add", bridge, "type", "bridge"),
        ("-n", namespace, "link", "set", bridge, "up"),
        ("-n", namespace, "link", "add", f"{bridge}p", "type", "veth", "peer", "name", "eth0", "netns", there),
        ("-n", namespace, "link", "set", f"{bridge}p", "master", bridge, "up"),
        ("-n", there, "addr", "add", f"{GATEWAY}/24", "dev", "eth0"),
        ("-n", there, "link", "set", "eth0", "up"),
    ):
        subprocess.run(["ip", *command], check=True)
    for family in ("ip", "ip6"):
        setting = f"net.bridge.bridge-nf-call-{family}tables=0"
        subprocess.run([*inside(namespace), "sysctl", "-qw", setting], check=False, stderr=subprocess.DEVNULL)
    leases = folder / "dnsmasq.leases"
    served: Sequence[Sequence[str]] = (
        (
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            f"--dhcp-leasefile={leases}",
            "--pid-file=",
            "--user=root",
            "--no-ping",
            "--interface=eth0",
            "--bind-interfaces",
            "--dhcp-range=198.51.100.128,198.51.100.159,120",
            f"--dhcp-option=option:router,{GATEWAY}",
            "--domain=lan.example",
            f"--address=/{NAME}/{GATEWAY}",
            "--log-facility=-",
        ),
        ("python3", "-c", _SERVER, GATEWAY, str(PORT)),
    )
    with open(folder / "lan.log", "ab") as log:
        servers = [subprocess.Popen([*inside(there), *command], stdout=log, stderr=log) for command in served]
    try:
        yield Neighbour(there)
    finally:
        for server in servers:
            server.kill()
            server.wait()
        subprocess.run(["ip", "netns", "delete", there], check=False)
