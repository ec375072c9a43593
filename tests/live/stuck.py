"""What vchd and its VMs do at the moment, for the message of a test whose command did not end."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_SECONDS = 5.0
_MOST = 6000


def report(root: Path, api: Path) -> str:
    """The tasks of vchd, and of each QEMU its state, whether it restores a template, its CPU time, and where its vCPUs are, twice."""
    dump = ["curl", "-s", "--max-time", str(_SECONDS), "--unix-socket", str(api), "http://d/vch/debug/dump"]
    parts = [subprocess.run(dump, capture_output=True, text=True, check=False).stdout[:_MOST]]
    for folder in sorted(root.glob("exec/machines/*")):
        with contextlib.suppress(OSError, ValueError):
            pid = json.loads((folder / "machine.json").read_text())["pid"]
            restores = "-incoming" in (folder / "command").read_text()
            parts.append(f"{folder.name[:20]}: process {pid}, restores: {restores}, {_cpu(pid)}\n{_monitor(folder)}")
    return "\n".join(parts)


def _cpu(pid: int) -> str:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"state {fields[0]}, {int(fields[11]) + int(fields[12])} ticks"


def _monitor(folder: Path) -> str:
    try:
        with _connected(folder) as qmp:
            _ask(qmp, "qmp_capabilities")
            return "\n".join(_line(qmp, line) for line in ("status", "registers -a", "registers -a", "chardev"))
    except (OSError, ValueError) as error:
        return f"its monitor does not answer: {error}"


@contextlib.contextmanager
def _connected(folder: Path) -> Iterator[socket.socket]:
    place = os.open(folder, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(f"/proc/self/fd/{place}/qmp.sock")
            yield connection
    finally:
        os.close(place)


def _ask(qmp: socket.socket, command: str, **arguments: str) -> str:
    qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
    data = b""
    while not (found := [line for line in data.split(b"\n")[:-1] if b'"return"' in line or b'"error"' in line]):
        more = qmp.recv(65536)
        if not more:
            raise ValueError("QEMU has closed it")
        data += more
    return str(json.loads(found[0]).get("return"))


def _line(qmp: socket.socket, what: str) -> str:
    text = _ask(qmp, "human-monitor-command", **{"command-line": f"info {what}"})
    if "registers" in what:
        time.sleep(0.2)
        return " ".join(re.findall("[ER]IP=[0-9a-f]+|HLT=[01]", text))
    return text.strip()
