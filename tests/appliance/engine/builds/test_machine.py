"""The life of the builder: start, leases, idle end, failures, and a restart of vchd."""

import logging
from pathlib import Path

import pytest
import trio

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.worker import INFO, first_info
from appliance.container.lifecycle import Exited
from appliance.engine.builds.contracts import Builders
from appliance.engine.builds.machine import BuilderMachine
from appliance.engine.builds.machine_record import load_machine_record, save_machine_record
from appliance.errors import Unavailable
from tests.appliance.engine.builds.builder import Bench, FakeDoor, builder, host_of
from tests.appliance.engine.harness import Host
from tests.appliance.engine.networking.fake_networks import RecordingHost
from tests.live.programs import free_port
from tether.rpc.status import Code


def check_types(machine: BuilderMachine) -> Builders:
    """mypy: the machine is what the contract says."""
    return machine


@pytest.fixture
def host(nursery: trio.Nursery, tmp_path: Path) -> Host:
    return host_of(nursery, tmp_path)


async def _until_ended(bench: Bench) -> None:
    with trio.fail_after(30):
        await bench.door.closed.wait()
        container = bench.container.find()
        if container is not None:
            await bench.daemon.until(container, lambda: not container.running)
    assert not bench.machine.running


def _with_bridges(host: Host) -> None:
    """Containers have addresses that vchd reaches. There is no other way to buildkitd: guests have no tunnel."""
    host.network = RecordingHost()
    host.guest.sockets = None


async def test_builds_share_a_builder(host: Host, tmp_path: Path) -> None:
    _with_bridges(host)
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench:
            assert not bench.machine.running
            assert not bench.machine.has_cache
            assert await bench.machine.cache_records() == []
            assert bench.container.find() is None
            assert bench.container.gateway() == ""
            async with bench.machine.use() as lease, bench.machine.use() as other:
                assert lease is other
                assert bench.machine.running
                assert await lease.channel.call(INFO, b"", 10) == first_info()
                (place,) = bench.door.places
                network = bench.daemon.stores.networks.get("vch-builder")
                assert (place.address, place.device) == (network.pools[0].gateway, network.bridge)
                assert (place.port, lease.door) == (0, "vch.internal:40001")
                assert place.key.stat().st_mode & 0o777 == 0o600
                assert bench.container.gateway() == network.pools[0].gateway
                container = bench.container.find()
                assert container is not None
                record = container.record
                assert record.host_config.privileged
                assert (record.host_config.memory, record.host_config.nano_cpus) == (1 << 30, 2_000_000_000)
                assert [(mount.name, mount.destination) for mount in record.mounts] == [
                    ("vch-builder", "/var/lib/buildkit")
                ]
                assert "vch.internal" in host.guest.vm_of(container.id).file("hosts")
            # Idle, and as it was.
            async with bench.machine.use() as again:
                assert again is lease
            files = host.guest.disk.files
            assert b"vch.internal:40001" in (files["/run/vch/buildkitd.toml"] or b"")
            assert b"tcp://0.0.0.0:" in (files["/run/vch/buildkitd.toml"] or b"")
            assert {path for path in files if path.startswith("/run/vch/")} == {
                f"/run/vch/{name}"
                for name in ("buildkitd.toml", "door-ca.pem", "door-cert.pem", "door-key.pem", "ready", "start")
            }
            # The key of the builder lies in the builder alone.
            key = files["/run/vch/door-key.pem"] or b""
            assert not any(key in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
            await bench.machine.stop()
            assert not bench.machine.running
            assert not place.key.exists()


async def test_an_idle_builder_is_ended(host: Host, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with builder(host, tmp_path, idle=0.05) as bench:
            async with bench.machine.use():
                await trio.sleep(0.2)
                assert bench.machine.running
                assert bench.door.places[0].address == "127.0.0.1"
                # vchd does not reach the network of the machine, so buildkitd has no port.
                assert b"tcp://" not in (host.guest.disk.files["/run/vch/buildkitd.toml"] or b"")
            await _until_ended(bench)
            container = bench.container.find()
            assert container is not None
            assert isinstance(container.state, Exited)
            assert [record.id for record in await bench.machine.cache_records()] == ["one"]
            assert bench.machine.has_cache
            # What it said outlives it, and the next one starts with the same cache and without its remains.
            async with bench.machine.use():
                successor = bench.container.find()
                assert successor is not None
                assert successor.id != container.id
                assert [mount.name for mount in successor.record.mounts] == ["vch-builder"]
            # No client learns of it.
            assert bench.daemon.all_events() == []
        async with builder(host, tmp_path) as bench:
            assert [record.size for record in await bench.machine.cache_records()] == [7]
            # A client frees the disk. The builder of the last build may still be there.
            await bench.machine.stop()
            await bench.container.remove()
            await bench.daemon.stores.volumes.remove("vch-builder")
            assert not bench.machine.has_cache
            assert await bench.machine.cache_records() == []
            async with bench.machine.use():
                assert bench.machine.has_cache
                assert len(await bench.machine.cache_records()) == 1


async def test_no_build_gets_a_builder_that_is_being_ended(host: Host, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with builder(host, tmp_path, idle=0.0) as bench:
            # The next build comes so many steps of the event loop after the last one, while the idle time of nothing ends.
            for steps in range(8):
                async with bench.machine.use() as lease:
                    assert await lease.channel.call(INFO, b"", 10) == first_info()
                    assert bench.machine.running
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("bridges", [False, True], ids=["by the tunnel", "by TLS"])
async def test_a_restarted_vchd_finds_the_builder(host: Host, tmp_path: Path, bridges: bool) -> None:
    port = free_port()
    if bridges:
        _with_bridges(host)
    with trio.fail_after(60):
        async with builder(host, tmp_path, port=port) as bench:
            async with bench.machine.use():
                pass
            before = bench.container.find()
            assert before is not None
        assert host.guest.launched == [before.id]
        async with builder(host, tmp_path, idle=0.3, port=port) as bench:
            async with bench.machine.use() as lease:
                # With the port that its buildkitd knows.
                assert lease.door == "vch.internal:40001"
                assert bench.door.places[0].port == 40001
                found = bench.container.find()
                assert found is not None
                assert found.id == before.id
                assert await lease.channel.call(INFO, b"", 10) == first_info()
            await _until_ended(bench)
        assert host.guest.launched == [before.id]


async def test_a_builder_whose_buildkitd_has_no_port_is_found_by_the_tunnel(host: Host, tmp_path: Path) -> None:
    host.network = RecordingHost()
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench:
            async with bench.machine.use():
                pass
            # As a version of vchd without such ports stored it.
            record = load_machine_record(bench.daemon.database)
            record.control = 0
            await save_machine_record(bench.daemon.database, record)
        # None listens any more.
        del host.guest.disk.files["/run/vch/ready"]
        async with builder(host, tmp_path) as bench, bench.machine.use() as lease:
            assert await lease.channel.call(INFO, b"", 10) == first_info()
            assert len(host.guest.launched) == 1


@pytest.mark.parametrize("fault", ["no keys", "the port is taken"])
async def test_a_builder_that_has_no_door_any_more_is_replaced(host: Host, tmp_path: Path, fault: str) -> None:
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench, bench.machine.use():
            pass
        if fault == "no keys":
            (tmp_path / "builder/door.pem").unlink()
        async with builder(host, tmp_path, door=FakeDoor(refuses=fault != "no keys")) as bench:
            container = bench.container.find()
            assert container is not None
            await bench.daemon.until(container, lambda: not container.running)
            bench.door.refuses = False
            async with bench.machine.use():
                assert bench.container.find() is not container


async def test_a_build_that_comes_before_the_found_builder_is_known_to_be_useless_gets_another(
    host: Host, tmp_path: Path
) -> None:
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench, bench.machine.use():
            pass
        (tmp_path / "builder/door.pem").unlink()
        async with builder(host, tmp_path) as bench:
            found = bench.container.find()
            async with bench.machine.use():
                assert bench.container.find() is not found
            assert bench.machine.running


async def test_a_builder_that_is_removed_under_a_build(host: Host, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench:
            async with bench.machine.use() as lease:
                container = bench.container.find()
                assert container is not None
                await bench.daemon.remove(container, force=True)
                await _until_ended(bench)
                with pytest.raises(BuildkitError) as raised:
                    await lease.channel.call(INFO, b"", 10)
                assert raised.value.code is Code.UNAVAILABLE
                # The next build does not wait for this one.
                async with bench.machine.use() as successor:
                    assert successor is not lease
                    assert bench.machine.running
            assert bench.machine.running


async def test_a_build_that_does_not_wait_leaves_a_builder_for_the_next_one(host: Host, tmp_path: Path) -> None:
    host.guest.hold = trio.Event()
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def use() -> None:
                        async with bench.machine.use():
                            pass

                    await host.guest.held.wait()
                    scope.cancel()
            host.guest.hold.set()
            async with bench.machine.use():
                assert len(host.guest.launched) == 1


async def test_no_image(host: Host, tmp_path: Path) -> None:
    with trio.fail_after(60):
        async with builder(host, tmp_path, image="moby/buildkit:v9") as bench:
            for _ in range(2):
                with pytest.raises(Unavailable) as raised:
                    async with bench.machine.use():
                        pass
                assert str(raised.value) == (
                    "the builder cannot be started: the builder image moby/buildkit:v9 is not here, and cannot be pulled: there is no "
                    'network. Load it with "docker load" (make builder-image), or name another with --builder-image'
                )
            assert bench.door.open == 0


async def test_a_folder_that_cannot_be_written(host: Host, tmp_path: Path) -> None:
    (tmp_path / "builder").write_text("no folder")
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench:
            for _ in range(2):
                with pytest.raises(Unavailable, match=r"the keys of the builder cannot be written: .*File exists"):
                    async with bench.machine.use():
                        pass


async def test_a_cache_with_which_no_buildkit_starts_is_set_aside_once(
    host: Host, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volumes = []
    with trio.fail_after(60):
        for restarts in range(2):
            async with builder(host, tmp_path, behaviours={}, answer_seconds=0.1) as bench:
                for _ in range(4 - restarts):
                    with pytest.raises(Unavailable, match="does not answer"):
                        async with bench.machine.use():
                            pass
                    await _until_ended(bench)
                    container = bench.container.find()
                    assert container is not None
                    volumes.append(container.record.mounts[0].name)
        second = volumes[3]
        assert volumes == ["vch-builder"] * 3 + [second] * 4
        assert second.startswith("vch-builder-")
        said = [record for record in caplog.records if "remove this volume" in record.message]
        assert len(said) == 1
        assert said[0].levelno == logging.WARNING
        # A good start counts from zero.
        async with builder(host, tmp_path) as bench, bench.machine.use():
            container = bench.container.find()
            assert container is not None
            assert container.record.mounts[0].name == second


async def test_a_container_that_ends_at_once(host: Host, tmp_path: Path) -> None:
    async def end(process: object) -> int:
        return 3

    host.guest.programs["/bin/sh"] = end
    with trio.fail_after(60):
        async with builder(host, tmp_path, behaviours={}) as bench:
            with pytest.raises(Unavailable, match=r"cannot be started: .*(exit code 3|not running)"):
                async with bench.machine.use():
                    pass
