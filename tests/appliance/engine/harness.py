"""The whole engine without VMs: the composition root on a FakeHost, whose VMs run a scripted guest.

`Host` outlives its engines, as the hypervisor and its VMs outlive a vchd that was killed: a test leaves one `engine(...)` block and enters
another one on the same host and folder.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from appliance.composition import Daemon, composed
from appliance.composition_builds import MakeBuildkit
from appliance.config import Config, parse_arguments
from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.event import Event
from appliance.container.host_config import HostConfig
from appliance.engine.machines.pool import Pool
from appliance.engine.model.container import Container
from appliance.engine.model.repository import ContainerRepository
from appliance.engine.networking.networks import Networks
from appliance.hosting.contract import Hosting, Machines, usual_machine
from appliance.hypervisor.fake import FakeDriver, FakeHost, FakeMachine
from appliance.hypervisor.fake_disks import FakeDisks
from appliance.image.load import load
from appliance.network.host import HostNetwork, UserModeHostNetwork
from tests.appliance.engine.guest import Program, ScriptedGuest, sleeper
from tether.rpc.bridge import LoopThread


class Host:
    """VMs in memory with a scripted guest; `nursery` runs both.

    A test may set `machine`, the class of the driver's machines, and `network`.
    """

    machine: type[FakeMachine] = FakeMachine

    def __init__(self, nursery: trio.Nursery, default: Program = sleeper, **programs: Program) -> None:
        self.guest = ScriptedGuest(nursery, default, **programs)
        # VersatileMachine for machines with checkpoints, suspend and shares.
        self.machine: type[FakeMachine] = FakeMachine
        self.vms = FakeHost(nursery, self.guest)
        self.disks = FakeDisks()
        self.network: HostNetwork = UserModeHostNetwork()

    def driver(self) -> FakeDriver:
        return FakeDriver(self.vms, self.machine)

    def power_off(self, machine_id: str) -> None:
        """End a VM behind the engine's back."""
        self.guest.power_off(machine_id)
        self.vms.power_off(machine_id)


class FakeHosting(Hosting):
    """A hypervisor for the composition root, whose machines are those of a Host."""

    has_datastores = False

    def __init__(
        self, config: Config, host: Host | None = None, pools: Callable[..., list[Pool]] | None = None
    ) -> None:
        assert host is not None
        self._config = config
        self._host = host
        self._pools = pools

    def network_host(self) -> HostNetwork:
        """See Hosting."""
        return self._host.network

    @asynccontextmanager
    async def connected(self, owner: str) -> AsyncIterator[None]:
        """See Hosting."""
        yield

    async def machines(self, loop: LoopThread, networks: Networks, nursery: trio.Nursery) -> Machines:
        """See Hosting."""
        driver, usual = self._host.driver(), usual_machine(self._config, networks)
        pools = self._pools(driver, usual, loop, nursery) if self._pools is not None else []
        return Machines(driver, self._host.disks, usual, pools)


class Engine:
    """The services of one daemon, with what tests do all the time."""

    def __init__(self, daemon: Daemon) -> None:
        self.services = daemon.services
        self.stores = daemon.stores
        self.router = daemon.router
        self.mounts = daemon.mounts
        self.registry = daemon.process.registry
        self.bus = daemon.process.events
        self.database = daemon.process.database
        self._repository = ContainerRepository(self.database, self.bus)

    async def create(
        self, *command: str, name: str = "", host: HostConfig | None = None, config: ContainerConfig | None = None
    ) -> Container:
        """Create a container of the image `empty` with this command."""
        config = config or ContainerConfig()
        config.image = "empty"
        config.cmd = list(command) or ["sleeper"]
        return await self.services.creation.create(name, config, host or HostConfig(), {})

    async def start(self, container: Container) -> Container:
        await self.services.containers.start(container.id, by_user=True)
        return container

    async def run(self, *command: str, name: str = "", host: HostConfig | None = None) -> Container:
        """Create and start a container; its process runs when this returns."""
        return await self.start(await self.create(*command, name=name, host=host))

    async def stop(self, container: Container, seconds: float = 5) -> None:
        await self.services.signals.stop(container.id, signal="", timeout=seconds)

    async def remove(self, container: Container, *, force: bool = False) -> None:
        await self.services.removal.remove(container.id, force=force)

    async def save(self, container: Container) -> None:
        """Store the container's record as it is now."""
        await self._repository.save(container)

    def stored(self, container: Container) -> ContainerRecord | None:
        """The container's record on disk; None when there is none."""
        return self._repository.load().get(container.id)

    async def until(self, container: Container, holds: Callable[[], bool]) -> None:
        """Wait until `holds` is true; it is asked again at each change of the container."""
        while not holds():
            await container.changed.wait()

    async def ended(self, container: Container, exits: int = 1) -> None:
        """Wait until this many runs of the container have ended."""
        await self.until(container, lambda: container.exits >= exits)

    @staticmethod
    async def machine_gone(container: Container) -> None:
        """Wait until the machine of the container's last run is destroyed."""
        if container.run is not None:
            await container.run.gone.wait()

    def events(self, container: Container) -> list[str]:
        """The actions of the container's events so far."""
        return [event.action for event in self.bus.past(0) if event.id == container.id]

    def all_events(self) -> list[Event]:
        """The events of containers, networks, volumes and images so far."""
        return self.bus.past(0)

    def attributes(self, container: Container, action: str) -> dict[str, str]:
        """The attributes of the container's last event with this action."""
        return [event.attributes for event in self.bus.past(0) if (event.id, event.action) == (container.id, action)][
            -1
        ]

    async def emitted(self, container: Container, action: str, times: int = 1) -> None:
        """Wait until the container has had this event so often."""
        with self.bus.watch() as events:
            while self.events(container).count(action) < times:
                await events.receive()


@asynccontextmanager
async def engine(
    host: Host, root: Path, *flags: str, pause_by: str = "freeze", make_buildkit: MakeBuildkit | None = None
) -> AsyncIterator[Engine]:
    """A daemon on the host's VMs, with the image `empty`. At the end of the block it is gone as after kill -9: the VMs go on.

    `pause_by` is no flag here, since the flag needs a connection to vSphere.
    """
    config = parse_arguments(
        ["--data-root", str(root / "data"), "--exec-root", str(root / "exec"), "--bip", "10.11.0.1/24", *flags]
    )
    config = replace(config, pause_by=pause_by)
    config.data_root.mkdir(exist_ok=True)
    async with composed(config, FakeHosting(config, host), make_buildkit) as daemon:
        if not daemon.stores.images.all():
            archive = root / "empty.tar"
            archive.write_bytes(image_archive())
            async for _ in load(daemon.stores.images, archive):
                pass
        try:
            yield Engine(daemon)
        finally:
            for container in daemon.process.registry.all():
                if container.log is not None:
                    container.log.close()


def log_text(container: Container) -> str:
    """The container's whole log: the payloads of its frames (8 bytes of head each, unless it has a terminal)."""
    data = b"".join(path.read_bytes() for path in sorted(container.folder.glob("log*.data")))
    if container.tty:
        return data.decode()
    payloads = []
    while data:
        size = int.from_bytes(data[4:8], "big")
        payloads.append(data[8 : 8 + size])
        data = data[8 + size :]
    return b"".join(payloads).decode()


def image_archive() -> bytes:
    """A `docker load` archive of the image `empty`, which has one layer with one file."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        _add(tar, "etc/hostname", b"empty\n")
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": ["empty:latest"], "Layers": ["layer.tar"]}]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, "config.json", json.dumps(config).encode())
        _add(tar, "layer.tar", layer.getvalue())
        _add(tar, "manifest.json", json.dumps(manifest).encode())
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
