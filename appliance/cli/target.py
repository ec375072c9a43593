"""Which vCenter or ESXi a command is about, and who asks."""

import argparse
import getpass
import hashlib
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from appliance.cli.report import REFUSED, Ended
from appliance.config import host_and_port
from appliance.errors import HypervisorError, InvalidParameter
from appliance.hypervisor.vsphere.appliances import Appliances
from appliance.hypervisor.vsphere.session import Server

_HTTPS = 443
_SECONDS = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("vSphere").add_argument
    flag("-t", "--target", required=True, metavar="HOST[:PORT]", help="the vCenter, or the ESXi if there is none")
    flag("-u", "--user", required=True, help="an account that may do it")
    flag("--password-file", type=Path, help="a file with its password; else $VCH_PASSWORD, else it is asked for")
    flag("--thumbprint", default="", help="of the server's certificate, SHA-1 or SHA-256")
    flag(
        "--target-ca",
        dest="vsphere_ca",
        type=Path,
        help="PEM: the CAs of the server's certificate; else those of this system",
    )


def password_of(path: Path | None, variable: str, whose: str) -> str:
    """From a file, the environment, or whoever sits there. InvalidParameter when there is none."""
    if path is not None:
        try:
            return path.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidParameter(f"{path}: {error}") from error
    if (found := os.environ.get(variable)) is not None:
        return found
    if not sys.stdin.isatty():
        raise InvalidParameter(f"there is no password of {whose}: --password-file, or ${variable}")
    return getpass.getpass(f"Password of {whose}: ")


def server_of(options: argparse.Namespace) -> Server:
    """What the options say of it."""
    host, port = host_and_port(options.target, _HTTPS)
    password = password_of(options.password_file, "VCH_PASSWORD", options.user)
    return Server(host, options.user, password, port, options.thumbprint, options.vsphere_ca)


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[Appliances]:
    """Logged in. Ended says why not, and which certificate the server shows if it is not trusted."""
    server = server_of(options)
    server.context()
    async with AsyncExitStack() as stack:
        try:
            appliances = await stack.enter_async_context(Appliances.open(server))
        except HypervisorError as error:
            if "cannot be trusted" not in str(error):
                raise
            shown = _shown(server)
            remedy = (
                f"\nIt shows a certificate with the thumbprint\n    {shown}\nIf that is the right one: --thumbprint {shown}"
                if shown
                else ""
            )
            text = str(error).replace("--vsphere-ca", "--target-ca")
            raise Ended(REFUSED, f"{text}{remedy}") from error
        yield appliances


def _shown(server: Server) -> str:
    """The thumbprint of what answers there, which proves nothing: to be compared with what its operator knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((server.host, server.port), _SECONDS) as plain,
            context.wrap_socket(plain) as secured,
        ):
            certificate = secured.getpeercert(binary_form=True) or b""
    except OSError:
        return ""
    return hashlib.sha256(certificate).digest().hex(":").upper()
