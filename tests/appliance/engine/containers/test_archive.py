"""The files of containers: `docker cp`, `diff` and `export`, of containers that run and of those that do not."""

import stat
from collections.abc import AsyncGenerator

import pytest

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.container.mounts import MountRecord
from appliance.engine.model.container import Container
from appliance.errors import InvalidParameter, NotFound
from appliance.guest import Change
from protos.tether.v1 import filesystem_pb2
from tests.appliance.engine.guest_files import files_of, tar_of
from tests.appliance.engine.harness import Engine, Host


async def pieces(data: bytes) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


async def write(daemon: Engine, ref: str, path: str, files: dict[str, bytes | None], *, owner: bool = False) -> None:
    await daemon.services.archive.write(
        ref, path, pieces(tar_of(files)), no_overwrite_dir_non_dir=True, copy_owner=owner
    )


@pytest.fixture(params=["running", "created", "exited"])
async def container(daemon: Engine, request: pytest.FixtureRequest) -> Container:
    container = await daemon.create(name="web")
    if request.param != "created":
        await daemon.start(container)
    if request.param == "exited":
        await daemon.stop(container)
    return container


async def test_stat(daemon: Engine, host: Host, container: Container) -> None:
    found = await daemon.services.archive.stat("web", "/etc/hostname")
    assert (found.name, found.size, stat.S_ISREG(found.mode)) == ("hostname", 6, True)
    # A process sees its mounts; without a process there are only the disks.
    seen_by = container.id if container.running else ""
    assert host.guest.requests == [filesystem_pb2.StatRequest(id=seen_by, path="/etc/hostname")]
    # Looking is not an event.
    assert "archive-path" not in daemon.events(container)


async def test_read(daemon: Engine, container: Container) -> None:
    async with daemon.services.archive.read("web", "/etc") as (found, archive):
        assert stat.S_ISDIR(found.mode)
        data = b"".join([piece async for piece in archive])
    assert files_of(data) == {"etc": None, "etc/hostname": b"empty\n"}
    assert daemon.events(container)[-1] == "archive-path"


async def test_write(daemon: Engine, host: Host, container: Container) -> None:
    await write(daemon, "web", "/etc", {"motd": b"hello" * 1000, "d": None})
    assert host.guest.disk.files["/etc/motd"] == b"hello" * 1000
    assert host.guest.disk.files["/etc/d"] is None
    seen_by = container.id if container.running else ""
    looked = filesystem_pb2.StatRequest(id=seen_by, path="/etc")
    first = filesystem_pb2.WriteArchiveRequest(id=seen_by, path="/etc", no_overwrite_dir_non_dir=True)
    assert host.guest.requests == [looked, first]
    assert daemon.events(container)[-1] == "extract-to-dir"


async def test_changes(daemon: Engine, host: Host, container: Container) -> None:
    kinds = filesystem_pb2.Change
    host.guest.disk.changes = [(kinds.MODIFIED, "/etc"), (kinds.ADDED, "/etc/motd"), (kinds.DELETED, "/bin/sh")]
    async with daemon.services.archive.changes("web") as batches:
        changes = [one async for batch in batches for one in batch]
    assert changes == [Change(0, "/etc"), Change(1, "/etc/motd"), Change(2, "/bin/sh")]


async def test_export_has_no_mounts(daemon: Engine, host: Host, container: Container) -> None:
    async with daemon.services.archive.export("web") as archive:
        data = b"".join([piece async for piece in archive])
    assert files_of(data) == {"etc": None, "etc/hostname": b"empty\n"}
    # Even of a running container: the files on its disks.
    assert host.guest.requests == [filesystem_pb2.ReadArchiveRequest()]
    assert daemon.events(container)[-1] == "export"


async def test_a_path_that_is_not_there(daemon: Engine, container: Container) -> None:
    text = r"^Could not find the file /none in container web$"
    with pytest.raises(NotFound, match=text):
        await daemon.services.archive.stat("web", "/none")
    with pytest.raises(NotFound, match=text):
        async with daemon.services.archive.read("web", "/none"):
            pass
    with pytest.raises(NotFound, match=text):
        await write(daemon, "web", "/none", {"a": b""})
    assert not {"archive-path", "extract-to-dir"} & set(daemon.events(container))


async def test_a_target_that_is_a_file(daemon: Engine, container: Container) -> None:
    # 400, as moby, although the guest reports a conflict.
    with pytest.raises(InvalidParameter, match=r"^extraction point is not a directory$"):
        await write(daemon, "web", "/etc/hostname", {"a": b""})


async def test_an_unknown_container(daemon: Engine) -> None:
    with pytest.raises(NotFound, match=r"^No such container: other$"):
        await daemon.services.archive.stat("other", "/")
    with pytest.raises(NotFound, match=r"^No such container: other$"):
        await write(daemon, "other", "/", {})


async def test_a_read_only_root(daemon: Engine, host: Host) -> None:
    await daemon.create(name="web", host=HostConfig(readonly_rootfs=True))
    with pytest.raises(InvalidParameter, match=r"^container rootfs is marked read-only$"):
        await write(daemon, "web", "/etc", {"motd": b""})
    assert "/etc/motd" not in host.guest.disk.files
    # It can be read.
    assert (await daemon.services.archive.stat("web", "/etc/hostname")).size == 6


@pytest.mark.parametrize("readonly_rootfs", [False, True])
async def test_the_mount_decides_whether_files_can_be_written(
    daemon: Engine, host: Host, readonly_rootfs: bool
) -> None:
    """As moby's checkWritablePath. The deepest mount counts, after all links of the path."""
    container = await daemon.create(name="web", host=HostConfig(readonly_rootfs=readonly_rootfs))
    container.record.mounts = [
        MountRecord("tmpfs", "/v"),
        MountRecord("tmpfs", "/v/ro", read_only=True),
        MountRecord("tmpfs", "/ro", read_only=True),
        MountRecord("tmpfs", "/ro/rw"),
    ]
    files = host.guest.disk.files
    folders = ("/v", "/v/sub", "/v/ro", "/v/ro/x", "/ro", "/ro/rw", "/ro/rw/x", "/row", "/link")
    files |= dict.fromkeys(folders)
    host.guest.disk.links["/link"] = "/v/ro/x"
    refusals = {}
    for folder in folders:
        try:
            await write(daemon, "web", f"{folder}/", {"f": b""})
        except InvalidParameter as error:
            refusals[folder] = str(error)
        assert (f"{folder}/f" in files) == (folder not in refusals)
    read_only = dict.fromkeys(("/v/ro", "/v/ro/x", "/ro", "/link"), "mounted volume is marked read-only")
    root = {"/row": "container rootfs is marked read-only"} if readonly_rootfs else {}
    assert refusals == read_only | root


async def test_a_guest_of_version_0_1_does_not_resolve_links(daemon: Engine, host: Host) -> None:
    container = await daemon.create(name="web", host=HostConfig(readonly_rootfs=True))
    container.record.mounts = [MountRecord("tmpfs", "/etc")]
    host.guest.disk.resolves = False
    await write(daemon, "web", "/etc/.", {"motd": b""})
    with pytest.raises(InvalidParameter, match=r"^container rootfs is marked read-only$"):
        await write(daemon, "web", "/etc/..", {"motd": b""})


@pytest.mark.parametrize(("copy", "owner"), [(True, "joe:staff"), (False, "")])
async def test_the_owner_of_new_files(daemon: Engine, host: Host, copy: bool, owner: str) -> None:
    await daemon.create(name="web", config=ContainerConfig(user="joe:staff"))
    await write(daemon, "web", "/etc", {"motd": b""}, owner=copy)
    _, first = host.guest.requests
    assert isinstance(first, filesystem_pb2.WriteArchiveRequest)
    assert first.owner == owner


async def test_a_source_that_breaks(daemon: Engine, host: Host) -> None:
    async def broken() -> AsyncGenerator[bytes, None]:
        yield tar_of({"motd": b""})[:700]
        raise InvalidParameter("the client left")

    container = await daemon.run()
    with pytest.raises(InvalidParameter, match=r"^the client left$"):
        await daemon.services.archive.write(
            container.id, "/etc", broken(), no_overwrite_dir_non_dir=False, copy_owner=False
        )
    assert "/etc/motd" not in host.guest.disk.files
    assert container.running


async def test_a_layer_is_the_changes_to_the_image(daemon: Engine, host: Host) -> None:
    host.guest.disk.layer = tar_of({"etc/motd": b"hello"})
    container = await daemon.create()
    async with daemon.services.archive.layer(container) as archive:
        assert files_of(b"".join([piece async for piece in archive])) == {"etc/motd": b"hello"}
