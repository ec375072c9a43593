"""What a container holds while it has a machine: endpoints, ports, disks; and the events about them."""

from typing import Any

import pytest

from appliance.container.host_config import HostConfig
from appliance.engine.model.container import Container
from appliance.errors import HypervisorError
from appliance.hypervisor.fake import Faults
from tests.appliance.engine.harness import Engine, Host


def others(daemon: Engine, container: Container) -> list[tuple[str, str, dict[str, Any]]]:
    """The events of networks and volumes that name the container: (type, action, attributes)."""
    return [
        (event.type, event.action, event.attributes)
        for event in daemon.all_events()
        if event.attributes.get("container") == container.id
    ]


async def test_the_events_of_a_run(daemon: Engine) -> None:
    container = await daemon.run(host=HostConfig(binds=["data:/data:ro", "more:/more"]))
    connect, first, second = others(daemon, container)
    assert connect[:2] == ("network", "connect")
    assert connect[2]["name"] == "bridge"
    assert [one[:2] for one in (first, second)] == [("volume", "mount")] * 2
    assert [(one[2]["destination"], one[2]["read/write"]) for one in (first, second)] == [
        ("/data", "false"),
        ("/more", "true"),
    ]
    await daemon.stop(container)
    assert [one[:2] for one in others(daemon, container)[3:]] == [
        ("network", "disconnect"),
        ("volume", "unmount"),
        ("volume", "unmount"),
    ]


async def test_a_start_that_fails_announces_nothing_and_holds_nothing(daemon: Engine, host: Host) -> None:
    host.vms.faults = Faults(start="no memory")
    container = await daemon.create(host=HostConfig(binds=["data:/data"]))
    with pytest.raises(HypervisorError, match=r"^no memory$"):
        await daemon.start(container)
    assert others(daemon, container) == []
    assert container.endpoints == []
    host.vms.faults = Faults()
    # Its disk is free for another container.
    assert (await daemon.run(host=HostConfig(binds=["data:/data"]))).running


async def test_addresses_are_free_after_the_end(daemon: Engine) -> None:
    container = await daemon.run()
    address = container.endpoints[0].ipv4
    assert address is not None
    other = await daemon.run()
    assert other.endpoints[0].ipv4 is not None
    assert other.endpoints[0].ipv4.address != address.address
    await daemon.stop(container)
    assert container.endpoints == []
    assert [attachment.address for attachment in container.record.attachments] == [""]


async def test_a_volume_disk_is_in_the_machine(daemon: Engine, host: Host) -> None:
    container = await daemon.run(host=HostConfig(binds=["data:/data:ro"]))
    disks = [disk.path for disk in host.vms.vms[container.id].spec.disks]
    assert disks[0] == container.upper
    assert disks[-1].parent.name == "data"
    assert host.guest.vms[container.id].configured is not None


async def test_no_machine_is_left_with_a_disk_that_is_free(daemon: Engine, host: Host) -> None:
    """The disk of a volume is released when the machine is gone, not when the process has ended."""
    binds = HostConfig(binds=["data:/data"])
    first, second = await daemon.run(host=binds), await daemon.create(host=binds)
    await daemon.stop(first)
    await daemon.start(second)
    journal = host.vms.journal
    assert journal.index(("destroy", first.id)) < journal.index(("create", second.id))
