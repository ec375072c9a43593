"""Carries the connections to a container's socket mounts to the sockets of the host."""

import logging
from collections.abc import Mapping
from contextlib import aclosing

import trio

from appliance.engine.model.container import Container
from appliance.engine.model.run import Run
from appliance.engine.sockets.api_dialer import ApiConnection, ApiDialer
from appliance.engine.sockets.dialer import Dialer
from appliance.errors import Conflict, VchError, leaves
from appliance.guest import Accepted, GuestTunnel
from appliance.roles import Principal, Role, container_principal
from appliance.volume.host_socket import HostSocket

log = logging.getLogger(__name__)

# The guest keeps these limits, too: further connections wait there. A guest that does not waits here.
MOST_CONNECTIONS, MOST_OF_MACHINE = 256, 512
_PAUSE, _LONGEST_PAUSE = 0.05, 5.0


class SocketRelays:
    """A RunWatcher: accompanies each run of a container that has socket mounts, also after a restart of vchd.

    `api` takes the connections to the daemon's own API.
    """

    def __init__(self, api: trio.MemorySendChannel[ApiConnection]) -> None:
        self._api = api

    async def watch(self, container: Container, run: Run) -> None:
        """Relay connections until the run is over."""
        dialers: dict[int, Dialer] = {}
        for number, mount in enumerate(container.record.mounts, run.first_socket):
            if mount.api:
                dialers[number] = ApiDialer(self._api, _principal(container))
            elif mount.relay:
                dialers[number] = HostSocket(mount.source)
        if dialers:
            await run.accompany(Relay(container.id, GuestTunnel(run.session), dialers).run)


def _principal(container: Container) -> Principal:
    """The client at the API sockets of a container."""
    record = container.record
    return container_principal(container.id, record.owner, Role(record.socket_role))


class Relay:
    """The connections of one run. `dialers` are by the number of the guest's socket."""

    def __init__(self, container_id: str, tunnel: GuestTunnel, dialers: Mapping[int, Dialer]) -> None:
        self._id = container_id
        self._tunnel = tunnel
        self._dialers = dialers
        self._slots = {number: trio.Semaphore(MOST_CONNECTIONS) for number in dialers}
        self._all_slots = trio.Semaphore(MOST_OF_MACHINE)
        self._warned: set[str] = set()
        self._pause = _PAUSE

    async def run(self) -> None:
        """Relay until cancelled. The call for connections is repeated when the link is reset."""
        while True:
            try:
                async with (
                    trio.open_nursery() as nursery,
                    aclosing(self._tunnel.accepted(sorted(self._dialers))) as connections,
                ):
                    async for accepted in connections:
                        self._pause = _PAUSE
                        await self._start(accepted, nursery)
                    nursery.cancel_scope.cancel()
            except* VchError as group:
                log.debug("container %s: the call for connections ended: %s", self._id[:12], leaves(group)[0])
            await trio.sleep(self._pause)
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)

    async def _start(self, accepted: Accepted, nursery: trio.Nursery) -> None:
        slots = self._slots.get(accepted.socket)
        if slots is None:
            # No guest of ours announces it. It gets no answer.
            await trio.lowlevel.checkpoint()
            return
        await slots.acquire()
        await self._all_slots.acquire()
        nursery.start_soon(self._carry, accepted, slots)

    async def _carry(self, accepted: Accepted, slots: trio.Semaphore) -> None:
        try:
            stream: trio.abc.HalfCloseableStream | None = None
            try:
                stream = await self._dialers[accepted.socket].dial(accepted.uid, accepted.gid)
            except OSError as error:
                self._warn(f"connecting to the source of a socket mount: {error}")
            await self._tunnel.relay(accepted, stream)
        except Conflict as error:
            self._warn(f"a connection to a socket mount was closed: {error}")
        except VchError as error:
            log.debug("container %s: a relayed connection: %s", self._id[:12], error)
        finally:
            slots.release()
            self._all_slots.release()

    def _warn(self, text: str) -> None:
        """Log a fault once in a run: the container decides how often it occurs."""
        if text not in self._warned and len(self._warned) < 16:
            self._warned.add(text)
            log.warning("container %s: %s", self._id[:12], text)
