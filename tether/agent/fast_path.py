"""A quicker way to the appliance than a serial port: TCP and TLS, dialled from here."""

import socket
import ssl

import trio

from protos.tether.v1 import network_pb2
from tether.rpc.status import Code, RpcError
from tether.transport import LinkedLine, TlsLine
from tether.transport.tls import in_time, load_identity, tune

_DIAL_SECONDS = 5.0
_HANDSHAKE_SECONDS = 15.0


class FastPathDialler:
    """Has nobody to give a line to until `use`."""

    def __init__(self) -> None:
        self._linked: LinkedLine | None = None

    def use(self, linked: LinkedLine) -> None:
        """What runs the link."""
        self._linked = linked

    async def dial(self, request: network_pb2.OpenQuickLineRequest) -> None:
        """RpcError when nobody answers, or somebody else."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            # Whose name it bears says nothing: the authority is the appliance's own, of this one life of it.
            context.check_hostname = False
            context.load_verify_locations(cadata=request.authority.decode("ascii"))
            load_identity(context, request.certificate, request.key)
        except (ValueError, ssl.SSLError) as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"quick line: {error}") from error
        family = socket.AF_INET6 if ":" in request.address else socket.AF_INET
        connection = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            with trio.fail_after(_DIAL_SECONDS):
                await connection.connect((request.address, request.port))
            tune(connection)
        except (OSError, trio.TooSlowError) as error:
            connection.close()
            raise RpcError(Code.UNAVAILABLE, f"quick line: {error or 'nobody answers'}") from error
        except BaseException:
            connection.close()
            raise
        line = TlsLine(connection.detach(), context, server=False)
        if not await in_time(line, _HANDSHAKE_SECONDS):
            raise RpcError(Code.UNAVAILABLE, "quick line: the other end does not prove who it is")
        assert self._linked is not None
        self._linked.attach(line)
