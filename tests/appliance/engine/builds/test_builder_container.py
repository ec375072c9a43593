"""The builder's container: names that are taken, its image, its network and its volume."""

from pathlib import Path

import trio

from appliance.container.daemon_objects import BUILDER
from appliance.network.network_record import NetworkRecord
from tests.appliance.engine.builds.builder import builder, host_of
from tests.appliance.engine.networking.fake_networks import RecordingHost


async def test_objects_of_clients_keep_their_names(tmp_path: Path, nursery: trio.Nursery) -> None:
    host = host_of(nursery, tmp_path)
    host.network = RecordingHost()
    with trio.fail_after(60):
        async with builder(host, tmp_path) as bench:
            stores = bench.daemon.stores
            theirs = await bench.daemon.create(name="vch-builder")
            await stores.volumes.create("vch-builder", {}, {"size": "20g"})
            await stores.networks.create(NetworkRecord("", "vch-builder", "bridge", 0), unique=True)
            async with bench.machine.use():
                container = bench.container.find()
                assert container is not None
                assert container is not theirs
                names = [
                    container.record.name,
                    container.record.mounts[0].name,
                    container.record.attachments[0].network,
                ]
                assert all(name.startswith("vch-builder-") for name in names)
                assert stores.volumes.get(names[1]).role == BUILDER
                assert stores.networks.get(names[2]).role == BUILDER
                # A client cannot remove its image, its network or its disk from under it.
                assert bench.daemon.registry.user_of_image(container.record.image_id, running=True) is not None
                assert stores.volumes.users(names[1]) == [container.id]
            await bench.machine.stop()
            async with bench.machine.use():
                # The same network and the same cache.
                successor = bench.container.find()
                assert successor is not None
                assert successor.record.mounts[0].name == names[1]
                assert successor.record.attachments[0].network == names[2]
            assert bench.daemon.registry.get("vch-builder") is theirs
