"""What `docker info` shows of the engine: the hypervisor, waiting machines, queued starts, the storage quota."""

import os
from pathlib import Path

import trio

from appliance.hypervisor.fake import FakeDriver
from appliance.hypervisor.fake_passthrough import PassthroughDriver
from tests.appliance.engine.harness import Host, engine


async def test_the_status_of_a_daemon(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with engine(Host(nursery), tmp_path) as daemon:
        status = daemon.services.status
        assert status.hypervisor() == {"Driver": "fake"}
        size = {"VM memory": "2304 MiB", "VM CPUs": str(os.cpu_count())}
    facts = {"Driver": "fake", "Machines waiting": "0", "Starts queued": "0", "Builder": "stopped"}
    assert await status.status() == facts | size


async def test_a_quota_is_shown(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with engine(Host(nursery), tmp_path, "--storage-quota", "1g") as daemon:
        facts = await daemon.services.status.status()
    assert set(facts) > {"Driver", "Machines waiting", "Starts queued"}
    assert any("GiB" in value or "1 G" in value for value in facts.values())


class _PassthroughHost(Host):
    def driver(self) -> FakeDriver:
        return PassthroughDriver(self.vms)


async def test_devices_of_the_host_have_the_names_that_clients_give(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with engine(Host(nursery), tmp_path) as daemon:
        assert await daemon.services.status.devices() == []
    async with engine(_PassthroughHost(nursery), tmp_path) as daemon:
        assert await daemon.services.status.devices() == ["vfio/pci=0000:01:00.0"]
