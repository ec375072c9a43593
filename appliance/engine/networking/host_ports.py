"""The emulated host network: each port at which a container listens is published at the same port of the host."""

import logging

import trio

from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.model.run import Run
from appliance.engine.networking.published_ports import PublishedPorts
from appliance.errors import VchError
from appliance.guest import Listener
from appliance.hypervisor import Pluggable
from appliance.network.network_record import ingress_endpoint

log = logging.getLogger(__name__)

Port = tuple[str, int]

# A published port takes two sockets of this process, so their number is bounded.
_MOST = 256
_PAUSE = 0.05
# The interval at which a port in use by another program is tried again.
_AGAIN_SECONDS = 2.0


class HostPorts:
    """Publishes and withdraws ports while a container runs. A port that is in use is logged and tried again."""

    def __init__(self, ports: PublishedPorts, repository: ContainerRepository) -> None:
        self._ports = ports
        self._repository = repository

    async def watch(self, container: Container, run: Run) -> None:
        """Follow the container's listeners until the run is over."""
        if not container.on_host_network:
            return
        follower = _Follower(container, run, self._ports, self._repository)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.listen)
            nursery.start_soon(follower.publish)
            await container.wait_end_of(run)
            nursery.cancel_scope.cancel()


class _Follower:
    def __init__(self, container: Container, run: Run, ports: PublishedPorts, repository: ContainerRepository) -> None:
        self._container = container
        self._run = run
        self._ports = ports
        self._repository = repository
        self._wanted: frozenset[Port] | None = None
        self._refused: set[Port] = set()
        self._news = trio.Event()

    async def listen(self) -> None:
        """Receive the ports at which the guest listens."""
        await self._run.session.watch_listeners(self._take, self._run.network)

    async def _take(self, listeners: list[Listener]) -> None:
        found = [
            (one.protocol, one.port) for one in listeners if one.protocol in ("tcp", "udp") and 0 < one.port < 65536
        ]
        if len(found) > _MOST:
            log.warning(
                "container %s listens at %d ports, only %d are published", self._container.id[:12], len(found), _MOST
            )
        self._wanted = frozenset(found[:_MOST])
        self._news.set()

    async def publish(self) -> None:
        """Publish and withdraw ports after each change of the guest's listeners."""
        while True:
            with trio.move_on_after(_AGAIN_SECONDS if self._refused else float("inf")):
                await self._news.wait()
            self._news = trio.Event()
            if self._wanted is not None and self._container.running:
                await self._follow(self._wanted)
            # A bound for guests that change their listeners all the time.
            await trio.sleep(_PAUSE)

    async def _follow(self, wanted: frozenset[Port]) -> None:
        container = self._container
        has = {(one.protocol, one.port) for one in container.record.bindings}
        self._refused &= wanted
        for port in has - wanted:
            self._ports.unpublish_port(container, *port)
        for port in sorted(wanted - has):
            try:
                self._ports.publish_port(container, *port)
                self._refused.discard(port)
            except VchError as error:
                self._refuse(port, str(error))
        if {(one.protocol, one.port) for one in container.record.bindings} == has:
            return
        try:
            await self._update_machine()
            await self._repository.save(container)
        except VchError as error:
            log.warning("ports of container %s: %s", container.id[:12], error)

    def _refuse(self, port: Port, why: str) -> None:
        if port not in self._refused:
            self._refused.add(port)
            log.warning(
                "port %d/%s of container %s is not published: %s", port[1], port[0], self._container.id[:12], why
            )

    async def _update_machine(self) -> None:
        """Without bridges the hypervisor listens at the host's ports: send it the list."""
        target = ingress_endpoint(self._container.endpoints)
        if target is not None and not target.nic.bridge and isinstance(self._run.machine, Pluggable):
            await self._run.machine.set_forwards(target.nic.mac, target.nic.forwards)
