"""The options for the vCenter or ESXi host, and the login."""

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
from appliance.hypervisor.vsphere.server import Server

_HTTPS = 443
_SECONDS = 15


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument_group("vSphere server and account of this command").add_argument
    flag(
        "-t",
        "--target",
        required=True,
        metavar="HOST[:PORT]",
        help="Address of the vCenter Server, or of the ESXi host when there is no vCenter",
    )
    flag("-u", "--user", required=True, help="vSphere account")
    flag(
        "--password-file",
        type=Path,
        metavar="FILE",
        help="File with the password (default: $VCH_PASSWORD, else vch asks for it)",
    )
    flag("--thumbprint", default="", help="SHA-1 or SHA-256 thumbprint of the server's certificate")
    flag(
        "--target-ca",
        dest="vsphere_ca",
        type=Path,
        metavar="FILE",
        help="PEM: CAs of the server's certificate (default: the CAs of the system)",
    )


def password_of(path: Path | None, variable: str, whose: str) -> str:
    """The password from the file, else from the environment, else from the terminal. InvalidParameter when there is none."""
    if path is not None:
        try:
            return path.read_text().rstrip("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidParameter(f"{path}: {error}") from error
    if (found := os.environ.get(variable)) is not None:
        return found
    if not sys.stdin.isatty():
        raise InvalidParameter(f"no password for {whose}: use --password-file or ${variable}")
    return getpass.getpass(f"Password for {whose}: ")


def server_of(options: argparse.Namespace) -> Server:
    """The server and account of the options."""
    host, port = host_and_port(options.target, _HTTPS)
    password = password_of(options.password_file, "VCH_PASSWORD", options.user)
    return Server(host, options.user, password, port, options.thumbprint, options.vsphere_ca)


@asynccontextmanager
async def opened(options: argparse.Namespace) -> AsyncIterator[Appliances]:
    """A session with the server. Ended with REFUSED, and with the thumbprint to compare, when the server's certificate is not trusted."""
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
                f"\nThe certificate of the server has the thumbprint\n    {shown}\nIf this is the right server, use --thumbprint {shown}"
                if shown
                else ""
            )
            text = str(error).replace("--vsphere-ca", "--target-ca")
            raise Ended(REFUSED, f"{text}{remedy}") from error
        yield appliances


def _shown(server: Server) -> str:
    """The thumbprint of the certificate that the server shows, for the operator to compare; "" when there is no answer."""
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
