"""The virtual serial port concentrator: ESXi hosts connect the serial ports of VMs to it, and keep them connected through vMotion.

See "Virtual Serial Port Concentrator" in VMware's vSphere documentation: telnet with option 232. A host sends the VM's UUID and the
URI of the serial port. The URI is a secret that only the VM's configuration and the appliance hold; a host without it is refused.
"""

import ipaddress
import logging
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import trio

from appliance.errors import HypervisorError
from appliance.http.listener import accept_connections
from appliance.hypervisor.vsphere.host_connection import ExpectedPorts, HostConnection
from appliance.hypervisor.vsphere.serial_port import PortKey, SerialPort, plain_uuid

log = logging.getLogger(__name__)

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
# The time that a host has to identify the VM, and the connections that may be unidentified at once.
_PATIENCE = 10.0
_MOST_UNIDENTIFIED = 256


class Concentrator:
    """`allowed` are the networks of hosts that may connect; empty allows every host. With `tls` hosts must use TLS (telnets)."""

    def __init__(
        self, nursery: trio.Nursery, allowed: Sequence[Network] = (), tls: ssl.SSLContext | None = None
    ) -> None:
        self._nursery = nursery
        self._allowed = tuple(allowed)
        self._tls = tls
        self._expected = ExpectedPorts()
        self._unidentified = 0

    def expect(self, uuid: str, uri: str) -> SerialPort:
        """Let hosts connect a VM's serial port from now on. HypervisorError when the UUID is in use."""
        key = PortKey(plain_uuid(uuid), uri)
        if key.uuid in self._expected.by_uuid:
            raise HypervisorError(f"a machine with the UUID {uuid} exists already")
        port = self._expected.by_uuid[key.uuid] = SerialPort(key)
        self._nursery.start_soon(port.run)
        early, self._expected.early = self._expected.early, set()
        for connection in early:
            self._nursery.start_soon(connection.identify)
        return port

    @contextmanager
    def expecting_clones(self, uri: str) -> Iterator[None]:
        """Inside the block, connections with this URI may come before their UUID is expected. They wait for `expect`."""
        self._expected.clone_uris.add(uri)
        try:
            yield
        finally:
            self._expected.clone_uris.discard(uri)

    def forget(self, port: SerialPort) -> None:
        """Close the port of a VM that is gone."""
        self._expected.by_uuid.pop(port.key.uuid, None)
        port.close()

    async def serve(self, listener: trio.SocketListener) -> None:
        """Accept connections, until cancelled."""
        await accept_connections(listener.socket, self._accept, self._nursery, name="serial ports")

    async def _accept(self, connection: trio.socket.SocketType) -> None:
        stream = trio.SocketStream(connection)
        name = ""
        async with stream:
            try:
                host, port = stream.socket.getpeername()[:2]
                name = f"{host}:{port}"
            except OSError:
                return  # the host has hung up
            # A host that loses power does not close its connections.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, seconds in ((socket.TCP_KEEPIDLE, 15), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
                stream.setsockopt(socket.IPPROTO_TCP, option, seconds)
            address = ipaddress.ip_address(host.partition("%")[0])
            if self._allowed and not any(address in network for network in self._allowed):
                log.warning("serial port connection of %s: the address is not in --vspc-allow", name)
                return
            if self._unidentified >= _MOST_UNIDENTIFIED:
                log.warning("serial port connection of %s: too many connections have not identified their VM", name)
                return
            self._unidentified += 1
            try:
                await self._serve(stream, name)
            except Exception:
                log.exception("serial port connection of %s", name)

    async def _serve(self, stream: trio.SocketStream, name: str) -> None:
        """Serve a host. Hang up a host that does not identify its VM in time."""
        counted = True

        def uncount() -> None:
            nonlocal counted
            if counted:
                counted = False
                self._unidentified -= 1

        try:
            secured: trio.abc.Stream = stream
            if self._tls is not None:
                secured = trio.SSLStream(stream, self._tls, server_side=True, https_compatible=True)
                try:
                    with trio.fail_after(_PATIENCE):
                        await secured.do_handshake()
                except (trio.TooSlowError, trio.BrokenResourceError, ssl.SSLError) as error:
                    log.warning("serial port connection of %s: the TLS handshake failed: %s", name, error)
                    return
            connection = HostConnection(secured, name, self._expected)
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    with trio.move_on_after(_PATIENCE) as patience:
                        await connection.identified.wait()
                    uncount()
                    if patience.cancelled_caught:
                        log.warning("serial port connection of %s: the host does not identify its VM", name)
                        connection.scope.cancel()

                nursery.start_soon(watch)
                await connection.run()
                nursery.cancel_scope.cancel()
        finally:
            uncount()
