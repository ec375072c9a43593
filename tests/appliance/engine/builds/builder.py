"""A builder machine on the whole engine without VMs: the scripted guest's tunnel leads to a gRPC server in this process."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from appliance.buildkit.worker import INFO, LIST_WORKERS, first_info, first_workers
from appliance.composition_builds import Buildkit, BuildParts
from appliance.config import BuilderConfig
from appliance.engine.builds.builder_container import BuilderContainer, ContainerServices
from appliance.engine.builds.builder_files import RegistryRules
from appliance.engine.builds.contracts import DoorPlace
from appliance.engine.builds.credentials import AUTHORITY, CERTIFICATE, KEY
from appliance.engine.builds.machine import BuilderMachine, MachineSettings
from appliance.engine.model.container import Container
from appliance.engine.transfers import Transfers
from appliance.errors import RemoteFailed, Unavailable
from appliance.registry import Proxies
from protos.buildkit.v1 import control_pb2
from tests.appliance.buildkit.served import Behaviour, fake_buildkitd, fake_buildkitd_by_tls
from tests.appliance.engine.harness import Engine, Host, engine
from tests.live.programs import free_port
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


class LocalContainer(BuilderContainer):
    """A builder whose port is in this process, whatever address its network has given it."""

    @staticmethod
    def address(container: Container) -> str:
        """See BuilderContainer."""
        return "127.0.0.1" if BuilderContainer.address(container) else ""


def _changed(files: Mapping[str, bytes | None], key: bytes) -> bool:
    return files.get(f"/run/vch/{KEY}") != key


async def _serve_by_tls(host: Host, loop: LoopThread, behaviours: dict[str, Behaviour], port: int) -> None:
    """What buildkitd does with the files that it gets; the next life has other files."""
    files = host.guest.disk.files

    async def until(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110  # The disk tells of no change.
            await trio.sleep(0.01)

    while True:
        await until(lambda: "/run/vch/ready" in files)
        own = [files[f"/run/vch/{name}"] or b"" for name in (AUTHORITY, CERTIFICATE, KEY)]
        async with fake_buildkitd_by_tls(loop, behaviours, port, *own):
            await until(partial(_changed, files, own[2]))


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
    port: int = 0,
    archive: Path = Path("/nowhere/builder.tar"),
) -> AsyncIterator[Bench]:
    """A vchd with a builder, which has a TCP port where the host has bridges. At the end of the block it is gone as after kill -9.

    `archive` may have its image.
    """

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
        port = port or free_port()
        if host.network.bridged:
            nursery.start_soon(_serve_by_tls, host, loop, BUILDKIT if behaviours is None else behaviours, port)
        transfers = Transfers(stores.images, daemon.bus, dial, (), root, nursery, Proxies())
        container = LocalContainer(
            BuilderConfig(builder_image=image, builder_memory=1024, builder_cpus=2, builder_archive=archive),
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
            port=port,
            answer_seconds=answer_seconds,
        )
        machine = BuilderMachine(settings, container, door, daemon.database, loop, nursery)
        await machine.restore()
        try:
            yield Bench(machine, door, daemon, container)
        finally:
            nursery.cancel_scope.cancel()
