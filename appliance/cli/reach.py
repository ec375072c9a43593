"""How `vch` reaches the API of an appliance: by the address, with the certificates of a folder."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from appliance.config import bracketed
from appliance.errors import HypervisorError, Unavailable
from appliance.hypervisor.vsphere.appliances import Appliances, Deployed
from appliance.hypervisor.vsphere.trust import PinnedContext
from appliance.provision.files import API_PORT
from appliance.provision.pem import pem

_PAUSE = 2.0
_TIMEOUT = 10.0


def known_address(values: Mapping[str, str]) -> str:
    """The address of the API, when the properties have it; "" when DHCP assigns the address."""
    role = "client" if "client" in values.get("interfaces", "").split(",") else "public"
    address = values.get(f"{role}-address", "dhcp").partition("/")[0]
    return "" if address == "dhcp" else address


async def reported_address(appliances: Appliances, machine: object) -> str:
    """Wait until the appliance's VMware Tools report an address."""
    while True:
        found = await appliances.look(machine)
        if found is None:
            raise HypervisorError("the appliance was deleted meanwhile")
        if found.address:
            return found.address
        await trio.sleep(_PAUSE)


def docker_host(appliance: Deployed) -> str:
    """tcp://address:port; "" while the address is unknown."""
    address = known_address(appliance.values) or appliance.address
    return f"tcp://{bracketed(address)}:{API_PORT}" if address else ""


def _context(certificate: str, folder: Path) -> ssl.SSLContext:
    """Trust exactly the certificate that the appliance got, whatever CA signed it and whatever name or address the API has here."""
    context: ssl.SSLContext
    if certificate:
        first = x509.load_pem_x509_certificates(pem(certificate).encode())[0]
        context = PinnedContext.of(first.fingerprint(hashes.SHA256()).hex())
    else:
        # The appliance has signed a certificate itself, whose fingerprint only its console shows.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if _has_identity(folder):
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _has_identity(folder: Path) -> bool:
    return (folder / "cert.pem").exists() and (folder / "key.pem").exists()


@asynccontextmanager
async def client_of(address: str, values: Mapping[str, str], folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the API. Unavailable when the certificates are not usable."""
    try:
        context = _context(values.get("tls-cert", ""), folder)
    except (OSError, ValueError) as error:
        raise Unavailable(f"{folder}: {error}") from error
    base = f"https://{bracketed(address)}:{API_PORT}"
    async with httpx.AsyncClient(base_url=base, verify=context, timeout=_TIMEOUT, trust_env=False) as client:
        yield client


async def wait_served(address: str, values: Mapping[str, str], folder: Path) -> None:
    """Wait until the API answers. Without a client certificate, a completed handshake is answer enough."""
    async with client_of(address, values, folder) as client:
        while True:
            try:
                if (await client.get("/_ping")).is_success:
                    return
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # The server has proved its identity, and closed the connection because the client has no certificate.
                if not _has_identity(folder):
                    return
            except (httpx.HTTPError, OSError):
                pass
            await trio.sleep(_PAUSE)
