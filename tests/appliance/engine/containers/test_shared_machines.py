"""Containers that share a machine: how they join it, what they share, and how each of them ends."""

import re
from pathlib import Path

import pytest
import trio

from appliance.container.config import ContainerConfig
from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig, RestartPolicy
from appliance.container.lifecycle import Created, Exited
from appliance.engine.model import run as run_module
from appliance.engine.model.container import Container
from appliance.errors import Conflict, Unsupported, VchError
from appliance.hypervisor import ResourceShares
from appliance.hypervisor.fake import FakeMachine, Faults, VersatileMachine
from appliance.volume.bind_source import BindSources
from protos.tether.v1 import filesystem_pb2
from tests.appliance.engine.guest import Vm
from tests.appliance.engine.harness import Engine, Host, engine, log_text

MIB = 1 << 20


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    host = Host(nursery)
    host.machine = VersatileMachine
    return host


async def sidecar(daemon: Engine, name: str = "sidecar", **modes: str) -> Container:
    """A running container that shares namespaces, such as `network_mode="container:web"`."""
    return await daemon.run(name=name, host=HostConfig(**modes))  # type: ignore[arg-type]


def vm_of(host: Host) -> Vm:
    (vm,) = host.guest.vms.values()
    return vm


async def test_a_container_joins_the_machine_of_another(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, network_mode="container:web", pid_mode="container:web")
    assert list(host.vms.vms) == [web.id]
    process = host.guest.process(joiner.id)
    assert (process.network_of, process.pid_of, process.ipc_of) == (web.id, web.id, "")
    # Its own disk is plugged in. The layer of both images is bound.
    plugs = [path for action, path in host.vms.journal if action == "plug"]
    assert plugs == [str(joiner.upper)]
    added = vm_of(host).added[joiner.id]
    base = f"/run/tether/containers/{joiner.id}"
    assert [(mount.target, mount.source, list(mount.options)) for mount in added.mounts if "bind" in mount.options] == [
        (f"{base}/layers/0", "/run/tether/layers/0", ["bind"])
    ]
    assert (added.own_network, list(added.files)) == (False, [])
    spec = process.spec
    assert spec.root is not None
    assert spec.root.path == f"{base}/rootfs"
    assert {mount.source for mount in spec.mounts or () if mount.destination == "/etc/hosts"} == {
        "/run/tether/files/hosts"
    }
    assert joiner.record.config.hostname == web.record.config.hostname
    assert joiner.endpoints == []
    stored = daemon.stored(joiner)
    assert stored is not None
    assert stored.seat is not None
    assert (stored.seat.machine, stored.seat.first) == (web.id, False)


async def test_a_tmpfs_volume_is_one_for_all_containers_of_a_machine(tmp_path: Path, host: Host) -> None:
    async with engine(host, tmp_path) as daemon:
        await daemon.stores.volumes.create("memory", {}, {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"})
        with_volume = {"binds": ["memory:/m"]}
        web = await daemon.run(name="web", host=HostConfig(**with_volume))  # type: ignore[arg-type]
        await sidecar(daemon, network_mode="container:web", **with_volume)  # type: ignore[arg-type]
    async with engine(host, tmp_path) as daemon:
        # The next daemon knows, too, where the guest has the volume.
        await daemon.until(daemon.registry.get("web"), lambda: daemon.registry.get("web").run is not None)
        await sidecar(daemon, "other", network_mode="container:web", **with_volume)  # type: ignore[arg-type]
        for name in ("sidecar", "other"):
            joiner = daemon.registry.get(name)
            base = f"/run/tether/containers/{joiner.id}"
            found = [mount for mount in vm_of(host).added[joiner.id].mounts if mount.target == f"{base}/tmpfs/0"]
            assert [list(mount.options) for mount in found] == [["bind"]]
            assert found[0].source.endswith("/tmpfs/0")
            assert found[0].source != found[0].target
            spec = host.guest.process(joiner.id).spec
            assert [mount.source for mount in spec.mounts or () if mount.destination == "/m"] == [f"{base}/tmpfs/0"]
        # The sidecar keeps the tmpfs when the container that has brought it restarts.
        await daemon.stop(daemon.registry.get("web"))
        await daemon.machine_gone(daemon.registry.get("web"))
        await daemon.start(daemon.registry.get("web"))
        (mount,) = (mount for mount in vm_of(host).added[web.id].mounts if mount.target.endswith("/tmpfs/0"))
        joiners = [daemon.registry.get(name).id for name in ("sidecar", "other")]
        assert mount.source in [f"/run/tether/containers/{joiner}/tmpfs/0" for joiner in joiners]


async def test_a_joiner_ends_alone(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, network_mode="container:web")
    host.guest.process(joiner.id).write("hello\n")
    await daemon.stop(joiner)
    await daemon.machine_gone(joiner)
    assert log_text(joiner) == "hello\n"
    assert (web.running, list(host.vms.vms)) == (True, [web.id])
    assert ("release", str(joiner.upper)) in host.vms.journal
    (removed,) = vm_of(host).removed
    assert removed.id == joiner.id
    # Only the disk that nobody else has.
    assert [(disk.target, disk.lun) for disk in removed.disks] == [(1, 0)]
    # Later writes come after those that are queued.
    await daemon.save(web)
    stored = daemon.stored(joiner)
    assert stored is not None
    assert stored.seat is None
    # It can come again, and be removed.
    await daemon.start(joiner)
    assert joiner.running
    await daemon.remove(joiner, force=True)
    assert web.running
    await daemon.stop(web)
    await daemon.machine_gone(web)
    assert host.vms.vms == {}


async def test_the_machine_outlives_the_container_that_it_was_made_for(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, network_mode="container:web")
    await daemon.stop(web)
    await daemon.machine_gone(web)
    assert (joiner.running, list(host.vms.vms)) == (True, [web.id])
    # Its NIC is gone, so another container can have its address.
    assert host.vms.vms[web.id].spec.nic is None
    assert ("release", str(web.upper)) in host.vms.journal
    assert not [path for action, path in host.vms.journal if action == "release" and path.endswith(".erofs")]
    # The restarted container gets a further place in its machine, with a network of its own.
    await daemon.start(web)
    assert list(host.vms.vms) == [web.id]
    assert vm_of(host).added[web.id].own_network
    assert [nic is not None for nic in host.vms.vms[web.id].spec.more_nics] == [True]
    await daemon.stop(joiner)
    await daemon.machine_gone(joiner)
    assert web.running
    await daemon.remove(web, force=True)
    assert host.vms.vms == {}


async def test_the_network_of_a_container_that_was_removed(daemon: Engine, host: Host) -> None:
    """The network lives on in the container that has joined it, and so a third one can join it there."""
    web = await daemon.run(name="web")
    await sidecar(daemon, network_mode="container:web")
    await daemon.remove(web, force=True)
    third = await sidecar(daemon, "third", network_mode="container:sidecar")
    # The files of the first one are gone.
    assert [file.name for file in vm_of(host).added[third.id].files] == ["hosts", "resolv.conf", "hostname"]
    mounts = host.guest.process(third.id).spec.mounts or ()
    files = [mount.source for mount in mounts if mount.destination == "/etc/hosts"]
    assert files == [f"/run/tether/containers/{third.id}/files/hosts"]


async def test_the_end_of_a_pid_namespace(daemon: Engine) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, pid_mode="container:web")
    await daemon.stop(web)
    await daemon.ended(joiner)
    assert isinstance(joiner.state, Exited)
    assert joiner.state.exit_code == 137


async def test_a_start_while_the_pod_ends(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, pid_mode="container:web")
    await daemon.stop(web)
    # If the joiner has left by now, a new machine with the same id has to wait for the end of the old one.
    await daemon.start(web)
    assert (web.running, list(host.vms.vms)) == (True, [web.id])
    await daemon.machine_gone(joiner)
    actions = [action for action, _ in host.vms.journal]
    assert actions.count("create") - actions.count("destroy") == 1
    assert web.running


async def test_one_container_whose_log_fails(
    daemon: Engine, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, network_mode="container:web")

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(joiner.open_log(), "write", full)
    host.guest.process(joiner.id).write("hello\n")
    await daemon.ended(joiner)
    await daemon.machine_gone(joiner)
    assert "No space left on device" in caplog.text
    # Its process is gone, and its neighbour goes on.
    assert joiner.id not in vm_of(host).processes
    assert web.running
    host.guest.process(web.id).write("still here\n")
    await web.log_news.wait()


async def test_all_containers_of_a_machine_end_with_it(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    joiners = [await sidecar(daemon, name, network_mode="container:web") for name in ("one", "two")]
    host.power_off(web.id)
    for container in (web, *joiners):
        await daemon.ended(container)
        assert isinstance(container.state, Exited)
        assert (container.state.exit_code, container.state.error) == (137, "the machine ended by itself")
        await daemon.machine_gone(container)
    assert host.vms.vms == {}
    assert [action for action, _ in host.vms.journal].count("destroy") == 1


async def test_a_machine_by_name(daemon: Engine, host: Host) -> None:
    containers = []
    for name in ("one", "two"):
        config = ContainerConfig(labels={"vch.machine": "shop"})
        containers.append(await daemon.create(name=name, config=config))
    # Both at once: one begins the machine, and the other one waits for it.
    async with trio.open_nursery() as nursery:
        for container in containers:
            nursery.start_soon(daemon.start, container)
    assert len(host.vms.vms) == 1
    one, two = sorted(containers, key=lambda container: container.id not in host.vms.vms)
    added = vm_of(host).added[two.id]
    # Nothing is shared but the machine.
    assert added.own_network
    assert one.endpoints[0].mac != two.endpoints[0].mac == added.network.interfaces[0].mac
    process = host.guest.process(two.id)
    assert (process.network_of, process.pid_of, process.ipc_of) == ("", "", "")
    await daemon.stop(one)
    await daemon.machine_gone(one)
    assert two.running


async def test_owners_do_not_meet_in_a_machine(daemon: Engine, host: Host) -> None:
    for owner in ("one", "two"):
        container = await daemon.create(config=ContainerConfig(labels={"vch.machine": "shop"}))
        container.record.owner = owner
        await daemon.start(container)
    assert len(host.vms.vms) == 2


async def test_shared_memory(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web", host=HostConfig(ipc_mode="shareable", shm_size=8 * MIB))
    joiner = await sidecar(daemon, ipc_mode="container:web")
    configured = vm_of(host).configured
    assert configured is not None
    shm = [mount for mount in configured.mounts if mount.target == "/run/tether/shm"]
    assert [(mount.type, "size=8388608" in mount.options) for mount in shm] == [("tmpfs", True)]
    for container in (web, joiner):
        mounts = host.guest.process(container.id).spec.mounts or ()
        assert [mount.source for mount in mounts if mount.destination == "/dev/shm"] == ["/run/tether/shm"]
    assert not [mount for mount in vm_of(host).added[joiner.id].mounts if mount.type == "tmpfs"]


@pytest.mark.parametrize(
    ("modes", "text"),
    [
        (
            {"network_mode": "container:web"},
            "cannot join network namespace of a non running container: container web is exited",
        ),
        ({"pid_mode": "container:web"}, "failed to join PID namespace: container .* is not running"),
        ({"ipc_mode": "container:web"}, "failed to join IPC namespace: container .* is not running"),
    ],
)
async def test_a_target_that_does_not_run(daemon: Engine, modes: dict[str, str], text: str) -> None:
    web = await daemon.run(name="web")
    await daemon.stop(web)
    joiner = await daemon.create(host=HostConfig(**modes))  # type: ignore[arg-type]
    with pytest.raises(VchError, match=text):
        await daemon.start(joiner)
    assert not joiner.running
    # Its client waits for the removal.
    joiner = await daemon.create(host=HostConfig(auto_remove=True, **modes))  # type: ignore[arg-type]
    with pytest.raises(VchError, match=text):
        await daemon.start(joiner)
    await daemon.until(joiner, lambda: joiner.removed)


async def test_two_machines(daemon: Engine) -> None:
    for name in ("one", "two"):
        await daemon.run(name=name)
    joiner = await daemon.create(host=HostConfig(network_mode="container:one", pid_mode="container:two"))
    with pytest.raises(Conflict, match="container one and container two run in different machines"):
        await daemon.start(joiner)


async def test_a_machine_that_is_too_small(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web", host=HostConfig(memory=64 * MIB))
    size = host.vms.vms[web.id].spec.memory_mib
    joiner = await daemon.create(name="big", host=HostConfig(network_mode="container:web", memory=size * MIB))
    with pytest.raises(
        Conflict, match=f"container big needs {size} MiB, and the machine of container web has {size} MiB"
    ):
        await daemon.start(joiner)
    await daemon.stop(web)
    await daemon.machine_gone(web)
    assert host.vms.vms == {}


async def test_a_guest_of_an_earlier_version(daemon: Engine, host: Host) -> None:
    host.guest.adds = False
    web = await daemon.run(name="web")
    joiner = await daemon.create(host=HostConfig(network_mode="container:web"))
    with pytest.raises(Conflict, match="the machine of container web was started by an earlier version of vch"):
        await daemon.start(joiner)
    assert web.running


async def test_a_hypervisor_that_takes_no_disks(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    assert web.run is not None
    web.run.pod.machine = FakeMachine(host.vms, host.vms.vms[web.id])
    joiner = await daemon.create(host=HostConfig(network_mode="container:web"))
    with pytest.raises(Unsupported, match="this hypervisor cannot add a disk to a running machine"):
        await daemon.start(joiner)
    assert web.running


@pytest.mark.parametrize("fault", ["plug", "launch"])
async def test_a_join_that_fails_leaves_nothing(daemon: Engine, host: Host, fault: str) -> None:
    web = await daemon.run(name="web")
    spec = host.vms.vms[web.id].spec
    joiner = await daemon.create(host=HostConfig(network_mode="container:web"))
    if fault == "plug":
        host.vms.faults = Faults(plug="no place for a disk")
    else:
        host.guest.broken.add("launch")
    with pytest.raises(VchError, match="no place for a disk" if fault == "plug" else "the guest is broken"):
        await daemon.start(joiner)
    assert host.vms.vms[web.id].spec == spec
    assert (web.running, joiner.record.seat, vm_of(host).added) == (True, None, {})
    host.vms.faults, host.guest.broken = Faults(), set()
    await daemon.start(joiner)
    assert joiner.running


async def test_a_join_that_is_cancelled(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    spec = host.vms.vms[web.id].spec
    joiner = await daemon.create(host=HostConfig(network_mode="container:web"))
    host.guest.hold = trio.Event()
    async with trio.open_nursery() as nursery:

        async def start() -> None:
            with pytest.raises(Conflict, match="was cancelled"):
                await daemon.start(joiner)

        nursery.start_soon(start)
        await host.guest.held.wait()
        await daemon.stop(joiner)
    assert (web.running, host.vms.vms[web.id].spec) == (True, spec)


async def test_the_disks_of_a_container_whose_files_others_use(
    daemon: Engine, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "_FILES_SECONDS", 0.2)
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, network_mode="container:web")
    host.guest.busy.add(joiner.id)
    await daemon.stop(joiner)
    run = joiner.run
    assert run is not None
    with trio.move_on_after(0.5):
        await run.gone.wait()
    # No machine may open the disk yet.
    assert not run.gone.is_set()
    assert ("release", str(joiner.upper)) not in host.vms.journal
    with pytest.raises(Conflict, match=r"^the files of container .* are in use in the machine of container"):
        await daemon.start(joiner)
    with pytest.raises(Conflict, match="are in use"):
        await daemon.services.archive.stat(joiner.id, "/etc")
    host.guest.busy.clear()
    await run.gone.wait()
    assert ("release", str(joiner.upper)) in host.vms.journal
    assert web.running


# -- a daemon that is killed ------------------------------------------------------------------------------------------


async def test_all_members_are_taken_over(tmp_path: Path, host: Host) -> None:
    async with engine(host, tmp_path) as daemon:
        web = await daemon.run(name="web")
        ids = [web.id, *[(await sidecar(daemon, name, network_mode="container:web")).id for name in ("one", "two")]]
    async with engine(host, tmp_path) as daemon:
        found = [daemon.registry.get(one) for one in ids]
        for container in found:
            await daemon.until(container, lambda container=container: container.run is not None)  # type: ignore[misc]
            await container.wait_recovered()
        pods = {id(container.run.pod) for container in found if container.run is not None}
        assert len(pods) == 1
        for container in reversed(found):
            assert container.running
            await daemon.stop(container)
            await daemon.machine_gone(container)
        assert host.vms.vms == {}
        assert [action for action, _ in host.vms.journal].count("destroy") == 1
        assert [path for action, path in host.vms.journal if action == "release"] == [
            str(container.upper) for container in (found[2], found[1])
        ]


async def test_a_removed_container_s_machine_is_kept_for_the_others(tmp_path: Path, host: Host) -> None:
    async with engine(host, tmp_path) as daemon:
        web = await daemon.run(name="web")
        await sidecar(daemon, network_mode="container:web")
        await daemon.remove(web, force=True)
    async with engine(host, tmp_path) as daemon:
        joiner = daemon.registry.get("sidecar")
        await joiner.wait_recovered()
        assert (joiner.running, list(host.vms.vms)) == (True, [web.id])
        await daemon.stop(joiner)
        await daemon.machine_gone(joiner)
        assert host.vms.vms == {}


async def test_a_member_that_has_ended_is_not_started_by_the_next_daemon(tmp_path: Path, host: Host) -> None:
    """The first container has left its machine, in which another one runs on."""
    async with engine(host, tmp_path) as daemon:
        web = await daemon.run(name="web")
        await sidecar(daemon, network_mode="container:web")
        await daemon.stop(web)
        await daemon.machine_gone(web)
        await daemon.save(web)
    async with engine(host, tmp_path) as daemon:
        found, joiner = daemon.registry.get("web"), daemon.registry.get("sidecar")
        await joiner.wait_recovered()
        assert isinstance(found.state, Exited)
        assert (found.exits, daemon.events(found), joiner.running) == (0, [], True)
        await daemon.start(found)
        assert list(host.vms.vms) == [web.id]


async def test_a_removal_from_the_machine_that_was_cut_off(tmp_path: Path, host: Host) -> None:
    async with engine(host, tmp_path) as daemon:
        web = await daemon.run(name="web")
        joiner = await sidecar(daemon, network_mode="container:web")
        host.guest.busy.add(joiner.id)
        await daemon.stop(joiner)
    host.guest.busy.clear()
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get("sidecar")
        await daemon.until(found, lambda: found.run is not None)
        await daemon.machine_gone(found)
        assert ("release", str(joiner.upper)) in host.vms.journal
        assert (found.exits, daemon.events(found), daemon.registry.get(web.id).running) == (0, [], True)


async def test_a_join_that_was_cut_off(tmp_path: Path, host: Host, nursery: trio.Nursery) -> None:
    async with engine(host, tmp_path) as daemon:
        web = await daemon.run(name="web")
        joiner = await daemon.create(name="sidecar", host=HostConfig(network_mode="container:web"))
        host.guest.hold = trio.Event()
        nursery.start_soon(daemon.start, joiner)
        await host.guest.held.wait()
    host.guest.hold = None
    async with engine(host, tmp_path) as daemon:
        found = daemon.registry.get("sidecar")
        await daemon.until(found, lambda: isinstance(found.state, Created))
        assert ("release", str(joiner.upper)) in host.vms.journal
        assert (daemon.registry.get(web.id).running, found.record.seat) == (True, None)
        await daemon.start(found)
        assert found.running


async def test_a_machine_that_ended_without_a_daemon(tmp_path: Path, host: Host) -> None:
    async with engine(host, tmp_path) as daemon:
        web = await daemon.run(name="web")
        policy = HostConfig(network_mode="container:web", restart_policy=RestartPolicy("always", 0))
        await daemon.run(name="sidecar", host=policy)
        web.record.host_config.restart_policy = RestartPolicy("always", 0)
        await daemon.save(web)
    host.power_off(web.id)
    async with engine(host, tmp_path) as daemon:
        found, joiner = daemon.registry.get("web"), daemon.registry.get("sidecar")
        # The joiner waits for the container whose network it has.
        await daemon.until(joiner, lambda: joiner.running)
        assert (found.running, found.exits, joiner.exits, len(host.vms.vms)) == (True, 1, 1, 1)


async def test_a_restart_that_fails(daemon: Engine) -> None:
    web = await daemon.run(name="web")
    joiner = await daemon.run(name="side", host=HostConfig(network_mode="container:web"))
    await daemon.stop(web)
    text = "cannot join network namespace of a non running container: container web is exited"
    with pytest.raises(VchError, match=f"^Cannot restart container side: {text}$") as caught:
        await daemon.services.containers.restart("side", signal="KILL", timeout=0)
    # The status is 500.
    assert type(caught.value) is VchError
    # The exit code of its run stays. It is 128 when that was 0.
    assert isinstance(joiner.state, Exited)
    assert (joiner.state.exit_code, joiner.state.error) == (137, text)
    fresh = await daemon.create(name="fresh", host=HostConfig(network_mode="container:web"))
    with pytest.raises(Conflict, match=f"^{text}$"):
        await daemon.start(fresh)
    assert fresh.state == Created(text, 128)


# -- the size of the machine ------------------------------------------------------------------------------------------


async def test_a_machine_is_made_for_the_containers_that_will_join_it(daemon: Engine, host: Host) -> None:
    web = await daemon.create(name="web", host=HostConfig(memory=64 * MIB))
    first = HostConfig(network_mode="container:web", memory=1000 * MIB, nano_cpus=3_000_000_000)
    joiners = [await daemon.create(name="one", host=first)]
    joiners.append(await daemon.create(name="two", host=HostConfig(pid_mode="container:one", memory=900 * MIB)))
    for container in (web, *joiners):
        await daemon.start(container)
    spec = host.vms.vms[web.id].spec
    assert (spec.grows, spec.memory_mib, spec.cpus) == (True, 2304, 3)
    plain = await daemon.run()
    assert not host.vms.vms[plain.id].spec.grows
    # The sum of the limits counts, also for later changes.
    with pytest.raises(Conflict, match="its VM has 2304 MiB, too few for that limit"):
        await daemon.services.updates.update(web.id, HostConfig(memory=400 * MIB), lambda _: None)
    await daemon.services.updates.update(web.id, HostConfig(memory=100 * MIB), lambda _: None)


async def test_a_machine_that_cannot_get_a_volume_says_what_to_do(daemon: Engine, host: Host, tmp_path: Path) -> None:
    daemon.stores.volumes.binds = BindSources()
    web = await daemon.run(name="web")
    joiner = await daemon.create(name="side", host=HostConfig(network_mode="container:web", binds=[f"{tmp_path}:/d"]))
    text = (
        "container side needs volumes or paths of the host, which the machine of web cannot get while it runs: the machine has no "
        "shared memory. Stop web and start it again: a machine that starts when container side exists can get them. Or create both "
        "with the label vch.machine=NAME"
    )
    with pytest.raises(Conflict, match=f"^{re.escape(text)}$"):
        await daemon.start(joiner)
    assert host.vms.vms[web.id].spec.more_disks == ()
    # What the text says helps.
    await daemon.stop(web)
    await daemon.machine_gone(web)
    await daemon.start(web)
    await daemon.start(joiner)
    assert list(host.vms.vms) == [web.id]
    assert [share.path for share in host.vms.vms[web.id].spec.more_shares[0]] == [tmp_path]


async def test_a_machine_has_the_shares_of_all_its_containers(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web", host=HostConfig(cpu_shares=512))
    joiner = await daemon.run(
        host=HostConfig(network_mode="container:web", cpu_shares=256, memory_reservation=64 * MIB)
    )
    assert host.vms.vms[web.id].shares == ResourceShares(768, 64)
    await daemon.services.updates.update(joiner.id, HostConfig(cpu_shares=512), lambda _: None)
    assert host.vms.vms[web.id].shares == ResourceShares(1024, 64)


# -- what clients do to one container ---------------------------------------------------------------------------------


async def test_one_container_is_paused(tmp_path: Path, host: Host) -> None:
    async with engine(host, tmp_path, pause_by="suspend") as daemon:
        web = await daemon.run(name="web")
        joiner = await sidecar(daemon, network_mode="container:web")
        await daemon.services.signals.pause(joiner.id)
        # A suspended machine would stop the other one, too.
        assert (joiner.paused, web.paused, host.guest.process(joiner.id).paused) == (True, False, True)
        assert not host.vms.vms[web.id].placement.suspended
        await daemon.services.signals.unpause(joiner.id)
        assert not joiner.paused


async def test_a_shared_machine_has_no_checkpoint(daemon: Engine) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, network_mode="container:web")
    await daemon.remove(joiner, force=True)
    with pytest.raises(Conflict, match="container web shares its machine with other containers"):
        await daemon.services.checkpoints.create(web.id, "one", "", leave_running=True)


async def test_files_of_a_further_container(daemon: Engine, host: Host) -> None:
    web = await daemon.run(name="web")
    joiner = await sidecar(daemon, network_mode="container:web")
    for container, expected in ((web, ""), (joiner, joiner.id)):
        host.guest.requests.clear()
        async with daemon.services.archive.changes(container.id) as changes:
            async for _ in changes:
                pass
        assert [
            request.id for request in host.guest.requests if isinstance(request, filesystem_pb2.ListChangesRequest)
        ] == [expected]
    with pytest.raises(Conflict, match="can be read once the container is stopped"):
        async with daemon.services.archive.export(joiner.id):
            pass


async def test_execs_belong_to_their_container(tmp_path: Path, host: Host) -> None:
    async with engine(host, tmp_path) as daemon:
        web = await daemon.run(name="web")
        joiner = await sidecar(daemon, network_mode="container:web")
        one = await daemon.services.execs.create(joiner.id, ExecConfig(cmd=["sleeper"]))
        await daemon.services.execs.start(one.id)
    async with engine(host, tmp_path) as daemon:
        await daemon.registry.get("sidecar").wait_recovered()
        await daemon.registry.get("web").wait_recovered()
        assert daemon.services.execs.ids_of(joiner.id) == [one.id]
        assert daemon.services.execs.ids_of(web.id) == []
        assert daemon.services.execs.get(one.id).container is daemon.registry.get("sidecar")


# -- volumes ----------------------------------------------------------------------------------------------------------


async def test_a_volume_that_is_a_disk_is_mounted_once(daemon: Engine, host: Host) -> None:
    """Between machines only one container can have it."""
    binds = ["data:/data"]
    web = await daemon.run(name="web", host=HostConfig(binds=binds))
    joiner = await daemon.run(host=HostConfig(binds=binds, network_mode="container:web"))
    added = vm_of(host).added[joiner.id]
    base = f"/run/tether/containers/{joiner.id}"
    assert (f"{base}/disks/0", "/run/tether/disks/0") in [(mount.target, mount.source) for mount in added.mounts]
    assert [volume.source for volume in added.volumes] == [f"{base}/disks/0/data"]
    # The disk stays until the last of them has left.
    await daemon.stop(web)
    await daemon.machine_gone(web)
    volume = host.vms.vms[web.id].spec.disks[-1].path
    assert volume.name != "-"
    other = await daemon.create(host=HostConfig(binds=binds))
    with pytest.raises(Conflict, match="volume data is a disk, and only one running container can have it"):
        await daemon.start(other)
    await daemon.stop(joiner)
    await daemon.machine_gone(joiner)
    await daemon.start(other)
    assert other.running
