"""The archive of the builder's image: what `docker load` of vchd makes of it."""

import io
import tarfile
from pathlib import Path

import trio

from appliance.config import BuilderConfig
from appliance.image.load import load
from build.builder.image import NAME, write_archive
from tests.appliance.engine.harness import Host, engine


async def test_the_archive_has_the_name_of_the_default_image(tmp_path: Path, nursery: trio.Nursery) -> None:
    layer = tmp_path / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        entry = tarfile.TarInfo("usr/bin/buildkitd")
        entry.size = 3
        tar.addfile(entry, io.BytesIO(b"elf"))
    write_archive(layer, tmp_path / "image.tar")
    write_archive(layer, tmp_path / "again.tar")
    assert (tmp_path / "image.tar").read_bytes() == (tmp_path / "again.tar").read_bytes()
    async with engine(Host(nursery), tmp_path) as daemon:
        async for _ in load(daemon.stores.images, tmp_path / "image.tar"):
            pass
        assert daemon.stores.images.get(BuilderConfig().builder_image).references == [f"docker.io/{NAME}"]
