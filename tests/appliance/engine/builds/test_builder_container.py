"""The builder's container: names that are taken, its image and the archive of it, its network and its volume."""

from pathlib import Path

import pytest
import trio

from appliance.container.daemon_objects import BUILDER
from appliance.errors import Unavailable
from appliance.network.network_record import NetworkRecord
from tests.appliance.engine.builds.builder import builder, host_of
from tests.appliance.engine.networking.fake_networks import RecordingHost
from tests.live.images import image_archive, layer_with


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


async def test_an_image_that_is_not_here_comes_from_the_archive(tmp_path: Path, nursery: trio.Nursery) -> None:
    archive = tmp_path / "builder.tar"
    archive.write_bytes(image_archive([layer_with("buildkitd")], {}, "moby/buildkit:v1"))
    with trio.fail_after(60):
        async with builder(
            host_of(nursery, tmp_path), tmp_path, image="docker.io/moby/buildkit:v1", archive=archive
        ) as bench:
            # Later starts find the image in the store.
            for _ in range(2):
                async with bench.machine.use():
                    container = bench.container.find()
                    assert container is not None
                    assert container.record.image_id == bench.daemon.stores.images.get("moby/buildkit:v1").id
                await bench.machine.stop()
                archive.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "content", [b"no archive", image_archive([layer_with("f")], {}, "other:1")], ids=["broken", "other"]
)
async def test_an_archive_without_the_image_leaves_the_pull(
    tmp_path: Path, nursery: trio.Nursery, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    archive = tmp_path / "builder.tar"
    archive.write_bytes(content)
    with trio.fail_after(60):
        async with builder(host_of(nursery, tmp_path), tmp_path, image="moby/buildkit:v1", archive=archive) as bench:
            with pytest.raises(Unavailable, match="cannot be pulled: there is no network"):
                async with bench.machine.use():
                    pass
    assert f"the builder image moby/buildkit:v1 cannot be loaded from {archive}: " in caplog.text
