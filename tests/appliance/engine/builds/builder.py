"""A builder machine on the whole engine without VMs: the scripted guest's tunnel leads to a gRPC server in this process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from appliance.buildkit.worker import INFO, LIST_WORKERS, first_info, first_workers
from appliance.composition_builds import Buildkit, BuildParts
from appliance.config import BuilderConfig
from appliance.engine.builds.builder_container import BuilderContainer, ContainerServices
from appliance.engine.builds.builder_files import RegistryRules
from appliance.engine.builds.contracts import DoorPlace
from appliance.engine.builds.machine import BuilderMachine, MachineSettings
from appliance.engine.transfers import Transfers
from appliance.errors import RemoteFailed, Unavailable
from appliance.registry import Proxies
from protos.buildkit.v1 import control_pb2
from tests.appliance.buildkit.served import Behaviour, fake_buildkitd
from tests.appliance.engine.harness import Engine, Host, engine
from tether.rpc.bridge import LoopThread


@dataclass
class FakeDoor:
    """A DoorListener that records where it listens; `closed` is set when it no longer does. With `refuses` it cannot listen."""

    places: list[DoorPlace] = field(default_factory=list)
    open: int = 0
    refuses: bool = False
    closed: trio.Event = field(default_factory=trio.Event)

    @asynccontextmanager
    async def listen(self, place: DoorPlace) -> AsyncIterator[int]:
        if self.refuses:
            raise Unavailable("the port is in use")
        self.places.append(place)
        self.open += 1
        self.closed = trio.Event()
        try:
            yield place.port or 40000 + len(self.places)
        finally:
            self.open -= 1
            self.closed.set()


def answering(answer: bytes) -> Behaviour:
    """A method that gives this answer."""

    async def behave(requests: Any, context: Any) -> None:
        async for _ in requests:
            await context.write(answer)

    return behave


USAGE = control_pb2.UsageAnswer(records=[control_pb2.UsageRecord(id="one", size=7, record_type="regular")])
BUILDKIT = {
    INFO: answering(first_info()),
    LIST_WORKERS: answering(first_workers()),
    "/moby.buildkit.v1.Control/DiskUsage": answering(USAGE.SerializeToString()),
}


@dataclass
class Bench:
    """What a test needs of the builder and of what is around it."""

    machine: BuilderMachine
    door: FakeDoor
    daemon: Engine
    container: BuilderContainer


def host_of(nursery: trio.Nursery, root: Path) -> Host:
    """VMs whose containers can dial sockets of this process, and have the builder's folder."""
    host = Host(nursery)
    host.guest.sockets = root / "s"
    host.guest.disk.files["/run/vch"] = None
    return host


@asynccontextmanager
async def builder(
    host: Host,
    root: Path,
    *,
    idle: float = 60.0,
    image: str = "empty",
    behaviours: dict[str, Behaviour] | None = None,
    answer_seconds: float = 30.0,
    door: FakeDoor | None = None,
) -> AsyncIterator[Bench]:
    """A vchd with a builder. At the end of the block it is gone as after kill -9."""

    def dial(*_: object) -> Any:
        raise RemoteFailed("there is no network")

    @asynccontextmanager
    async def no_other(parts: BuildParts) -> AsyncIterator[Buildkit]:
        """The daemon has no builder beside that of the test."""
        yield Buildkit(None, None)  # type: ignore[arg-type]  # no request of a client reaches them

    async with (
        engine(host, root, make_buildkit=no_other) as daemon,
        LoopThread.open() as loop,
        fake_buildkitd(loop, BUILDKIT if behaviours is None else behaviours) as direct,
        direct.open() as target,
        trio.open_nursery() as nursery,
    ):
        services, stores, door = daemon.services, daemon.stores, door or FakeDoor()
        parts = ContainerServices(
            daemon.registry,
            services.creation,
            services.removal,
            services.containers,
            services.signals,
            services.archive,
        )
        transfers = Transfers(stores.images, daemon.bus, dial, (), root, nursery, Proxies())
        container = BuilderContainer(
            BuilderConfig(builder_image=image, builder_memory=1024, builder_cpus=2),
            parts,
            stores.networks,
            stores.volumes,
            stores.images,
            transfers,
        )
        settings = MachineSettings(
            root / "builder",
            idle,
            3,
            RegistryRules(certificates=root / "none"),
            socket=target.address.removeprefix("unix:"),
            answer_seconds=answer_seconds,
        )
        machine = BuilderMachine(settings, container, door, daemon.database, loop, nursery)
        await machine.restore()
        try:
            yield Bench(machine, door, daemon, container)
        finally:
            nursery.cancel_scope.cancel()
