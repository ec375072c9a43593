"""Starting a container in a machine that runs already."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from appliance.container.guest_paths import GuestPaths
from appliance.container.sharing import SharedNamespaces
from appliance.diag import mark
from appliance.engine.machines.boot import container_mounts, kernel_modules, process_setup
from appliance.engine.machines.guest_config import GuestConfig, network_config, state_files, volumes_of
from appliance.engine.model.container import Container
from appliance.engine.model.layout import Layout
from appliance.engine.model.pod import Devices, Pod, Seat
from appliance.errors import Conflict
from appliance.guest import (
    GuestAddition,
    GuestContainers,
    GuestTunnel,
    Launched,
    Lease,
    ProcessSetup,
)
from appliance.network.network_record import Endpoint

_SECONDS = 120.0
# Time for all DHCP servers to answer.
_LEASE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Joining:
    """How a container joins a pod: its seat, its devices, its folders in the guest, and whose namespaces it shares.

    `endpoints` are those of its network, which may be another container's.
    """

    pod: Pod
    seat: Seat
    devices: Devices
    paths: GuestPaths
    shared: SharedNamespaces
    endpoints: Sequence[Endpoint]


def _addition(
    container: Container, joining: Joining, layout: Layout, guest_config: GuestConfig
) -> tuple[GuestAddition, ProcessSetup]:
    """What the guest gets for a further container, and the container's process."""
    config, host_config = container.record.config, container.record.host_config
    plan, shared = guest_config.mount_plan, joining.shared
    own_network = not shared.network
    # With a shared network the files are those of the other container, if that is still there.
    own_files = layout.paths.files == f"{layout.paths.base}/files"
    addition = GuestAddition(
        id=container.id,
        hostname=config.hostname,
        mounts=container_mounts(layout, plan, host_config),
        volumes=volumes_of(plan, layout, joining.endpoints),
        network=network_config(guest_config.endpoints) if own_network else None,
        modules=kernel_modules(plan),
        files=state_files(config, host_config, guest_config) if own_files else (),
        own_network=own_network,
    )
    process = process_setup(container.id, config, host_config, layout, guest_config)
    return addition, replace(process, network_of=shared.network, pid_of=shared.pid, ipc_of=shared.ipc)


async def begin_joined(
    stack: AsyncExitStack,
    container: Container,
    joining: Joining,
    guest_config: GuestConfig,
    take_leases: Callable[[Container, Sequence[Lease]], bool],
) -> Launched:
    """Add a container to a guest and start its process. StartRefused when the process cannot be started.

    Conflict when a container whose namespace it shares has ended meanwhile. `take_leases`: see begin_fresh.
    """
    session = joining.pod.session
    async with joining.pod.furnished(joining.seat, joining.devices, joining.paths) as layout:
        mark("devices there")
        addition, process = _addition(container, joining, layout, guest_config)
        before: GuestAddition | None = addition
        if guest_config.mount_plan.sockets:
            # Before the process runs, which may connect at once.
            await GuestTunnel(session).listen(guest_config.mount_plan.sockets, _SECONDS)
        if any(endpoint.network.dhcp for endpoint in container.endpoints):
            await GuestContainers(session).add(addition, _SECONDS + _LEASE_SECONDS)
            take_leases(container, await session.leases(container.id))
            record = container.record
            await session.write_files(state_files(record.config, record.host_config, guest_config), container.id)
            before = None
        try:
            return await stack.enter_async_context(session.launch(before, process, _SECONDS))
        except Conflict as error:
            if joining.shared.targets:
                raise Conflict(f"cannot join a namespace of a non running container: {error}") from error
            raise
