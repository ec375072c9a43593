"""The fast path to the appliance: TCP and TLS, beside a serial port. The guest dials."""

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
    """Dials the appliance, and gives the connection to the link that `use` has named."""

    def __init__(self) -> None:
        self._linked: LinkedLine | None = None

    def use(self, linked: LinkedLine) -> None:
        """Set what runs the link; before any `dial`."""
        self._linked = linked

    async def dial(self, request: network_pb2.OpenQuickLineRequest) -> None:
        """RpcError when the appliance does not answer, or the other end is not the appliance."""
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            # The name in the certificate does not matter: the appliance makes the authority anew at each of its starts.
            context.check_hostname = False
            context.load_verify_locations(cadata=request.authority.decode("ascii"))
            load_identity(context, request.certificate, request.key)
        except (ValueError, ssl.SSLError) as error:
            raise RpcError(Code.INVALID_ARGUMENT, f"fast path: {error}") from error
        family = socket.AF_INET6 if ":" in request.address else socket.AF_INET
        connection = trio.socket.socket(family, socket.SOCK_STREAM)
        try:
            with trio.fail_after(_DIAL_SECONDS):
                await connection.connect((request.address, request.port))
            tune(connection)
        except (OSError, trio.TooSlowError) as error:
            connection.close()
            raise RpcError(Code.UNAVAILABLE, f"fast path: {error or 'no answer'}") from error
        except BaseException:
            connection.close()
            raise
        line = TlsLine(connection.detach(), context, server=False)
        if not await in_time(line, _HANDSHAKE_SECONDS):
            raise RpcError(Code.UNAVAILABLE, "fast path: the TLS handshake failed")
        assert self._linked is not None
        self._linked.attach(line)
