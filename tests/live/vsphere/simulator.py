"""vcsim, VMware's simulator of vCenter and ESXi, as a server for tests."""

import contextlib
import hashlib
import os
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from appliance.hypervisor.vsphere.server import Server
from tests.live.certificates import self_signed
from tests.live.gotools import vcsim
from tests.live.programs import running_program

USER, PASSWORD = "administrator", "s3cret"


@dataclass(slots=True)
class Simulator:
    """A simulator that runs: its address, its certificate, its datastores."""

    address: str
    thumbprint: str
    certificate: Path
    datastores: Path
    pid: int


class Place(Protocol):
    """Where a server is, and its certificate's thumbprint."""

    address: str
    thumbprint: str


def server_of(place: Place) -> Server:
    """The server and login for a simulator, or for a proxy in front of it."""
    host, _, port = place.address.rpartition(":")
    return Server(host, USER, PASSWORD, int(port), place.thumbprint)


@contextlib.contextmanager
def running_vcsim(
    folder: Path, *flags: str, inside: Sequence[str] = (), host: str = "127.0.0.1"
) -> Iterator[Simulator]:
    """A vCenter with one cluster; `-esx` makes it a lone ESXi. `inside` goes before its command."""
    program = vcsim()
    if program is None:
        pytest.skip("vcsim is built by Go, which is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = self_signed(folder, host)
    command = [
        *inside,
        str(program),
        "-l",
        f"{host}:0",
        "-username",
        USER,
        "-password",
        PASSWORD,
        "-tlscert",
        str(certificate),
        "-tlskey",
        str(key),
        *flags,
    ]
    # The simulator makes its datastores below TMPDIR.
    datastores = folder / "datastores"
    datastores.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(datastores)}
    with running_program(command, folder / "vcsim.log", 10, environment) as (process, address):
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
        yield Simulator(address, hashlib.sha256(der).hexdigest(), certificate, datastores, process.pid)
