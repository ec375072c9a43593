"""vcsim, VMware's simulator of vCenter and ESXi, as a server for tests."""

import contextlib
import hashlib
import os
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from appliance.hypervisor.vsphere.session import Server
from tests.live.certificates import self_signed
from tests.live.gotools import vcsim

USER, PASSWORD = "administrator", "s3cret"


@dataclass(slots=True)
class Simulator:
    """Where it is and what its certificate says."""

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
    """How a simulator, or what stands before it, is logged in to."""
    host, _, port = place.address.rpartition(":")
    return Server(host, USER, PASSWORD, int(port), place.thumbprint)


@contextlib.contextmanager
def running_vcsim(
    folder: Path, *flags: str, inside: Sequence[str] = (), host: str = "127.0.0.1"
) -> Iterator[Simulator]:
    """A vCenter with one cluster; `-esx` makes it a lone ESXi. `inside` goes before its command."""
    program = vcsim()
    if program is None:
        pytest.skip("vcsim is built by Go, which is not here")
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = self_signed(folder, host)
    command = [*inside, str(program), "-l", f"{host}:0", "-username", USER, "-password", PASSWORD, "-tlscert", str(certificate),
               "-tlskey", str(key), *flags]  # fmt: skip
    # Where it makes its datastores.
    datastores = folder / "datastores"
    datastores.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(datastores)}
    with open(folder / "vcsim.log", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().decode().strip()
        assert address, (folder / "vcsim.log").read_text()
        der = ssl.PEM_cert_to_DER_cert(certificate.read_text())
        yield Simulator(address, hashlib.sha256(der).hexdigest(), certificate, datastores, process.pid)
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
