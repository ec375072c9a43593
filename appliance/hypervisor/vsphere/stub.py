"""HTTP connections to a vCenter or ESXi that another thread can end: pyVmomi's stub with hang-up and call counts."""

import contextlib
import http.client
import socket
import ssl
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import trio
from pyVmomi import SoapAdapter, vmodl

from appliance.hypervisor.vsphere.extension import TUNNEL, Extension
from appliance.hypervisor.vsphere.server import Server

T = TypeVar("T")

# What a call raises when its connection breaks.
LOST = (OSError, http.client.HTTPException)
# Calls that one stub makes at the same time, each in a thread.
MOST_CALLS = 16
# The oldest API that this driver uses: vSphere 6.5.
_VERSION = "vim.version.version11"
# Servers close idle connections. The client closes an idle connection first, so that no answer is lost for that reason.
_IDLE_SECONDS = 20


@dataclass(slots=True)
class _Connections:
    """The open connections of a stub. While `cut` is set, no connection opens."""

    live: "weakref.WeakSet[_Connection]" = field(default_factory=weakref.WeakSet)
    cut: bool = False


class _Connection(http.client.HTTPSConnection):
    """A connection of a stub. With `tunnel`, a port of the server, the connection goes through that port to TUNNEL."""

    def __init__(self, connections: _Connections, tunnel: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self._connections = connections
        self._server = self.host
        self._tls: ssl.SSLContext = settings["context"]
        if tunnel:
            self.port = tunnel
            self.set_tunnel(*TUNNEL)
        self._tunnels = bool(tunnel)
        connections.live.add(self)

    def connect(self) -> None:
        try:
            if self._tunnels:
                # The certificate behind the tunnel is the server's. It does not name the tunnel's virtual host.
                http.client.HTTPConnection.connect(self)
                self.sock = self._tls.wrap_socket(self.sock, server_hostname=self._server)
            else:
                super().connect()
            # Checked after the socket exists: either this check or hang_up ends the connection.
            if self._connections.cut:
                raise ConnectionAbortedError("hung up")
        except BaseException:
            self.close()
            raise

    def hang_up(self) -> None:
        """End a request that waits for its answer in another thread."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


class Stub(SoapAdapter.SoapStubAdapter):
    """pyVmomi's transport to a server. The caller sets `cookie` to use a session. `extension`: the TLS client certificate for a login."""

    def __init__(self, server: Server, timeout: float, extension: Extension | None = None) -> None:
        context = server.context()
        if extension is not None:
            extension.present(context)
        super().__init__(
            host=server.host,
            port=server.port,
            path="/sdk",
            version=_VERSION,
            sslContext=context,
            httpConnectionTimeout=timeout,
            poolSize=MOST_CALLS,
            connectionPoolTimeout=_IDLE_SECONDS,
        )
        self._connections = _Connections()
        # Calls by method name: tests measure the cost of a machine's life in calls.
        self.calls: Counter[str] = Counter()
        tunnel = extension.tunnel_port if extension is not None else 0
        self.scheme: Any = partial(_Connection, self._connections, tunnel)

    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        """Make one call; pyVmomi sends every call through this method."""
        self.calls[info.wsdlName] += 1
        try:
            return super().InvokeMethod(mo, info, args, outerStub)
        except (vmodl.MethodFault, *LOST):
            raise
        except Exception as error:
            # pyVmomi checks answers against vSphere's schema, which not all servers follow.
            raise http.client.HTTPException(f"an answer that cannot be read: {error!r}") from error

    def hang_up(self) -> None:
        """End the calls of other threads. `wait` opens connections again."""
        self._connections.cut = True
        for connection in list(self._connections.live):
            connection.hang_up()

    def close(self) -> None:
        """Close all connections. No call may be in progress."""
        self.DropConnections()
        for connection in list(self._connections.live):
            connection.close()

    async def wait(self, method: Callable[..., T], *arguments: Any) -> T:
        """Make a call whose answer may take long, in a thread of its own. Cancellation hangs up."""
        self._connections.cut = False
        answered = False
        result: list[T] = []
        problem: list[Exception] = []
        async with trio.open_nursery() as nursery:

            async def hang_up_when_cancelled() -> None:
                try:
                    await trio.sleep_forever()
                finally:
                    if not answered:
                        self.hang_up()

            nursery.start_soon(hang_up_when_cancelled)
            try:
                with trio.CancelScope(shield=True):
                    result.append(await trio.to_thread.run_sync(partial(method, *arguments)))
            except Exception as error:
                problem.append(error)
            answered = True
            nursery.cancel_scope.cancel()
        if problem:
            raise problem[0]
        return result[0]
