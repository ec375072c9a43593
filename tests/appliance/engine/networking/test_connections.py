"""Containers are connected to networks and disconnected, stopped and running: NICs, the guest's configuration, ports, links."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from appliance.container.config import ContainerConfig, Empty
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig, PortBinding
from appliance.engine.model.container import Container
from appliance.errors import Conflict, Forbidden, HypervisorError, InvalidParameter, NotFound, Unsupported
from appliance.hypervisor import Nic
from appliance.hypervisor.fake import FakeMachine, VersatileMachine
from appliance.network.network_record import NetworkRecord, Pool
from tests.appliance.engine.harness import Engine, Host, engine
from tests.appliance.engine.networking.fake_networks import RecordingHost, fixed, publishing


class StubbornMachine(VersatileMachine):
    """A machine whose hypervisor does not change NICs."""

    async def plug_nic(self, nic: Nic) -> None:
        raise HypervisorError("no slot is free")

    async def unplug_nic(self, mac: str) -> None:
        raise HypervisorError("the guest keeps the NIC")


@pytest.fixture
async def bridges() -> RecordingHost:
    return RecordingHost()


@pytest.fixture
async def host(nursery: trio.Nursery, bridges: RecordingHost) -> Host:
    host = Host(nursery)
    host.machine, host.network = VersatileMachine, bridges
    return host


@pytest.fixture
async def daemon(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    with trio.fail_after(60):
        async with engine(host, tmp_path) as running:
            for name, subnet in (("alpha", "10.20.0.0/24"), ("zeta", "10.21.0.0/24")):
                record = NetworkRecord("", name, "bridge", 0, [Pool(subnet)], own_subnet=True)
                await running.stores.networks.create(record, unique=True)
            yield running
            for container in running.registry.all():
                running.stores.networks.allocator.release_all(container)


async def _connect(
    daemon: Engine, container: Container, network: str, settings: EndpointSettings | None = None
) -> None:
    await daemon.services.connections.connect(network, container.id, settings or EndpointSettings())


async def _disconnect(daemon: Engine, container: Container, network: str, *, force: bool = False) -> None:
    await daemon.services.connections.disconnect(network, container.id, force=force)


def _networks(container: Container) -> list[str]:
    return [attachment.network for attachment in container.record.attachments]


def _nics(host: Host, container: Container) -> list[str]:
    """The bridges of the VM's NICs."""
    spec = host.vms.vms[container.id].spec
    return [nic.bridge for nic in (spec.nic, *spec.more_nics) if nic is not None]


def _applied(host: Host, container: Container) -> dict[str, tuple[list[str], list[str]]]:
    """The guest's configuration: (addresses, gateways) by interface."""
    config = host.guest.vm_of(container.id).network.applied[-1]
    return {one.name: (list(one.addresses), [route.gateway for route in one.routes]) for one in config.interfaces}


def _network_events(daemon: Engine, container: Container) -> list[str]:
    return [
        f"{event.action} {event.attributes['name']}"
        for event in daemon.bus.past(0)
        if event.type == "network" and event.attributes.get("container") == container.id
    ]


async def test_a_stopped_container_gets_its_nic_at_its_start(daemon: Engine, host: Host) -> None:
    container = await daemon.create(name="web")
    await _connect(daemon, container, "alpha", EndpointSettings(aliases=["www"]))
    assert (_networks(container), container.endpoints) == (["bridge", "alpha"], [])
    await daemon.start(container)
    record = daemon.stores.networks.get("alpha")
    assert _nics(host, container) == [daemon.stores.networks.get("bridge").bridge, record.bridge]
    await daemon.stop(container)
    await _disconnect(daemon, container, "alpha")
    assert _networks(container) == ["bridge"]


async def test_a_running_container_is_connected_at_once(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    networks = daemon.stores.networks
    await _connect(daemon, container, "zeta", fixed("10.21.0.9"))
    assert _nics(host, container) == [networks.get("bridge").bridge, networks.get("zeta").bridge]
    assert _applied(host, container) == {
        "eth0": (["10.11.0.2/24"], ["10.11.0.1"]),
        "eth1": (["10.21.0.9/24"], []),
    }
    assert f"10.21.0.9\t{container.record.config.hostname}" in host.guest.vm_of(container.id).file("hosts")
    assert "nameserver 10.11.0.1\n" in host.guest.vm_of(container.id).file("resolv.conf")
    assert _network_events(daemon, container) == ["connect bridge", "connect zeta"]
    await _disconnect(daemon, container, "bridge")
    assert _nics(host, container) == [networks.get("zeta").bridge]
    # The default route leads through the remaining NIC now.
    assert _applied(host, container) == {"eth1": (["10.21.0.9/24"], ["10.21.0.1"])}
    assert "10.11.0.2" not in host.guest.vm_of(container.id).file("hosts")
    assert _network_events(daemon, container)[-1] == "disconnect bridge"
    assert _networks(container) == ["zeta"]
    assert networks.members(networks.get("bridge")) == []


async def test_published_ports_follow_the_default_route(daemon: Engine, bridges: RecordingHost) -> None:
    container = await daemon.run(host=publishing({"80/tcp": [PortBinding()]}))
    await _connect(daemon, container, "alpha")
    assert {one.address for one in bridges.publications} == {"10.20.0.2"}
    assert container.record.bindings
    await _disconnect(daemon, container, "alpha")
    assert {one.address for one in bridges.publications} == {"10.11.0.2"}
    await _disconnect(daemon, container, "bridge")
    assert (bridges.publications, container.record.bindings) == ([], [])


async def test_connections_survive_a_restart_of_the_daemon(host: Host, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with engine(host, tmp_path) as daemon:
            record = await daemon.stores.networks.create(NetworkRecord("", "front", "bridge", 0), unique=True)
            container = await daemon.run()
            await _connect(daemon, container, "front")
            before = [(one.network.name, one.mac, one.ipv4) for one in container.endpoints]
        async with engine(host, tmp_path) as daemon:
            again = daemon.registry.get(container.id)
            while again.run is None:
                # The daemon dials the guest again.
                await trio.lowlevel.checkpoint()
            assert [(one.network.name, one.mac, one.ipv4) for one in again.endpoints] == before
            await _disconnect(daemon, again, "front")
            assert _nics(host, again) == [daemon.stores.networks.get("bridge").bridge]
            assert daemon.stores.networks.members(daemon.stores.networks.get(record.id)) == []


@pytest.mark.parametrize("how", ["driver", "guest", "port"])
async def test_a_connection_that_fails_is_undone(daemon: Engine, host: Host, how: str) -> None:
    container = await daemon.run()
    expected: type[Exception] = Conflict
    match how:
        case "driver":
            assert container.run is not None
            container.run.machine.__class__ = StubbornMachine
            expected = HypervisorError
        case "guest":
            host.guest.vm_of(container.id).network.refusal = "no such device"
        case _:
            expected = InvalidParameter
    if how == "port":
        container.record.host_config.port_bindings = {"80/tcp": [PortBinding(host_ip="300.0.0.1")]}
    before = list(container.endpoints)
    with pytest.raises(expected):
        await _connect(daemon, container, "alpha", fixed("10.20.0.9"))
    assert _networks(container) == ["bridge"]
    assert container.endpoints == before
    assert len(_nics(host, container)) == 1
    assert _network_events(daemon, container) == ["connect bridge"]
    # The address is free again.
    other = await daemon.run()
    await _connect(daemon, other, "alpha", fixed("10.20.0.9"))


async def test_a_nic_that_cannot_be_removed(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await _connect(daemon, container, "alpha")
    assert container.run is not None
    container.run.machine.__class__ = StubbornMachine
    with pytest.raises(HypervisorError, match="the guest keeps the NIC"):
        await _disconnect(daemon, container, "alpha")
    assert _networks(container) == ["bridge", "alpha"]
    assert len(container.endpoints) == 2
    await _disconnect(daemon, container, "alpha", force=True)
    assert _networks(container) == ["bridge"]
    assert list(_applied(host, container)) == ["eth0"]


async def test_a_hypervisor_that_cannot_change_nics(daemon: Engine) -> None:
    container = await daemon.run()
    assert container.run is not None
    container.run.machine.__class__ = FakeMachine
    with pytest.raises(Unsupported, match=r"^this hypervisor cannot add a NIC to a running machine$"):
        await _connect(daemon, container, "alpha")
    with pytest.raises(Unsupported, match=r"^this hypervisor cannot remove a NIC from a running machine$"):
        await _disconnect(daemon, container, "bridge")
    assert _networks(container) == ["bridge"]


async def test_a_container_with_the_network_of_another_one_is_on_no_other(daemon: Engine) -> None:
    await daemon.create(name="web")
    joiner = await daemon.create(name="beside", host=HostConfig(network_mode="container:web"))
    with pytest.raises(InvalidParameter, match=r"^container sharing network namespace with another container or host "):
        await _connect(daemon, joiner, "alpha")
    assert _networks(joiner) == []
    with pytest.raises(Forbidden, match=rf"^container {joiner.id} is not connected to network bridge$"):
        await _disconnect(daemon, joiner, "bridge")


async def test_connections_that_are_refused(daemon: Engine) -> None:
    container = await daemon.create(name="web")
    await _connect(daemon, container, "alpha")
    with pytest.raises(Forbidden, match=r"^endpoint with name web already exists in network alpha$"):
        await _connect(daemon, container, "alpha")
    with pytest.raises(NotFound, match=r"^network nothing not found$"):
        await _connect(daemon, container, "nothing")
    with pytest.raises(NotFound, match=r"^No such container: nobody$"):
        await daemon.services.connections.connect("alpha", "nobody", EndpointSettings())
    with pytest.raises(Forbidden, match=rf"^container {container.id} is not connected to network zeta$"):
        await _disconnect(daemon, container, "zeta")
    with pytest.raises(InvalidParameter, match=r"^invalid endpoint settings:\nno configured subnet contains IP addre"):
        await _connect(daemon, container, "zeta", fixed("10.20.0.9"))
    with pytest.raises(InvalidParameter, match="cannot be disconnected from host network or connected to host network"):
        await _connect(daemon, container, "host")
    with pytest.raises(InvalidParameter, match=r"with one of the networks in private \(none\) mode$"):
        await _connect(daemon, container, "none")
    assert _networks(container) == ["bridge", "alpha"]


async def test_containers_on_the_host_network_and_on_none(daemon: Engine) -> None:
    hosted = await daemon.run(host=HostConfig(network_mode="host"))
    text = "container cannot be disconnected from host network or connected to host network"
    with pytest.raises(InvalidParameter, match=f"^{text}$"):
        await _connect(daemon, hosted, "alpha")
    with pytest.raises(InvalidParameter, match=f"^{text}$"):
        await _disconnect(daemon, hosted, "host")
    lonely = await daemon.run(host=HostConfig(network_mode="none"))
    with pytest.raises(InvalidParameter, match=r"private \(none\) mode$"):
        await _connect(daemon, lonely, "alpha")
    await _disconnect(daemon, lonely, "none")
    assert lonely.record.attachments == []


async def test_a_removed_network_leaves_its_containers(daemon: Engine, host: Host) -> None:
    container = await daemon.run()
    await _connect(daemon, container, "alpha")
    await daemon.services.connections.disconnect_all(daemon.stores.networks.get("alpha"))
    await daemon.stores.networks.remove("alpha")
    assert _networks(container) == ["bridge"]
    assert len(_nics(host, container)) == 1


# -- legacy links -----------------------------------------------------------------------------------------------------


async def test_a_link_gives_a_name_and_variables(daemon: Engine, host: Host) -> None:
    config = ContainerConfig(env=["PASSWORD=x"], exposed_ports={"5432/tcp": Empty()})
    db = await daemon.create(name="db", config=config)
    await daemon.start(db)
    web = await daemon.run(name="web", host=HostConfig(links=["db:store"]))
    guest = host.guest.vm_of(web.id)
    assert f"10.11.0.2\tstore {db.id[:12]} db\n" in guest.file("hosts")
    assert {
        "STORE_NAME=/web/store",
        "STORE_PORT=tcp://10.11.0.2:5432",
        "STORE_PORT_5432_TCP_ADDR=10.11.0.2",
        "STORE_ENV_PASSWORD=x",
    } <= set(host.guest.process(web.id).env)
    # A further process has the variables, too; those of the exec and of the container win.
    for variables, expected in ((None, "x"), (["STORE_ENV_PASSWORD=own"], "own")):
        one = await daemon.services.execs.create(web.id, ExecConfig(cmd=["echo"], env=variables))
        await daemon.services.execs.start(one.id)
        env = host.guest.process(one.id).env
        assert "STORE_PORT=tcp://10.11.0.2:5432" in env
        assert f"STORE_ENV_PASSWORD={expected}" in env
    # The linked container comes back at another address.
    await daemon.stop(db)
    await daemon.start(db)
    while "10.11.0.4\tstore" not in guest.file("hosts"):
        await trio.lowlevel.checkpoint()
    assert "10.11.0.2\t" not in guest.file("hosts")


async def test_a_link_to_a_container_on_other_networks(daemon: Engine) -> None:
    await daemon.run(name="db", host=HostConfig(network_mode="alpha"))
    web = await daemon.create(name="web", host=HostConfig(links=["db:store"]))
    with pytest.raises(InvalidParameter, match=r"^Cannot link to /db, as it does not belong to the default network$"):
        await daemon.start(web)
    assert web.endpoints == []


async def test_a_link_to_a_container_that_does_not_run(daemon: Engine) -> None:
    db = await daemon.create(name="db")
    web = await daemon.create(name="web", host=HostConfig(links=["db:store"]))
    with pytest.raises(InvalidParameter, match=r"^Cannot link to a non running container: /db AS /web/store$"):
        await daemon.start(web)
    assert web.endpoints == []
    await daemon.start(db)
    await daemon.start(web)
    # An exec is refused, as in moby (setupLinkedContainers), also after the removal of the linked container.
    one = await daemon.services.execs.create(web.id, ExecConfig(cmd=["echo"]))
    await daemon.stop(db)
    with pytest.raises(InvalidParameter, match=r"^Cannot link to a non running container: /db AS /web/store$"):
        await daemon.services.execs.start(one.id)
    await daemon.remove(db, force=True)
    with pytest.raises(InvalidParameter, match=r"^Cannot link to a non running container: /db AS /web/store$"):
        await daemon.services.execs.create(web.id, ExecConfig(cmd=["echo"]))
    # The files leave the linked container out.
    await daemon.services.connections.refresh(web)
