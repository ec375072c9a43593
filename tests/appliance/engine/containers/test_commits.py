"""`docker commit` without VMs: the image that it makes, the pause around it, and what remains after a failure."""

import pytest
import trio

from appliance.container.commit import Commit
from appliance.container.config import ContainerConfig
from appliance.errors import InvalidParameter, NotFound, VchError
from appliance.image.store import ImageRecord
from tests.appliance.engine.guest_files import tar_of
from tests.appliance.engine.harness import Engine, Host


def wanted(
    name: str = "", *, pause: bool = True, changes: list[str] | None = None, config: ContainerConfig | None = None
) -> Commit:
    return Commit(name, "a comment", "Jane", pause, changes or [], config)


async def commit(daemon: Engine, request: Commit) -> ImageRecord:
    return await daemon.services.commits.commit("web", request)


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    host = Host(nursery)
    host.guest.disk.layer = tar_of({"etc": None, "etc/motd": b"hello"})
    return host


async def test_an_image_of_a_running_container(daemon: Engine) -> None:
    container = await daemon.run("sleeper", "x", name="web")
    images = daemon.stores.images
    record = await commit(daemon, wanted("mine:v1"))
    assert images.get("mine:v1").id == record.id
    base, config = images.config(container.record.image_id), images.config(record.id)
    assert config.diff_ids[:-1] == base.diff_ids
    assert images.has_layer(config.diff_ids[-1])
    assert config.config.cmd == ["sleeper", "x"]
    assert config.config.env == ["PATH=/bin"]
    assert config.author == "Jane"
    assert config.history is not None
    entry = config.history[-1]
    assert (entry.created_by, entry.comment, entry.author, entry.empty_layer) == (
        "sleeper x",
        "a comment",
        "Jane",
        None,
    )
    assert entry.created == config.created
    assert daemon.attributes(container, "commit")["imageID"] == record.id
    assert daemon.attributes(container, "commit")["comment"] == "a comment"


async def test_a_container_of_that_image(daemon: Engine) -> None:
    await daemon.run(name="web")
    record = await commit(daemon, wanted("empty:next"))
    config = ContainerConfig(image="empty:next")
    again = await daemon.services.creation.create("again", config, daemon.registry.get("web").record.host_config, {})
    assert (again.record.image_id, again.record.config.cmd) == (record.id, ["sleeper"])


async def test_the_container_pauses_meanwhile(daemon: Engine, host: Host) -> None:
    container = await daemon.run(name="web")
    disk = host.guest.disk
    disk.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit, daemon, wanted())
        await disk.held.wait()
        assert container.paused
        assert host.guest.process(container.id).paused
        disk.hold.set()
    assert not container.paused
    assert not host.guest.process(container.id).paused
    assert daemon.events(container)[2:] == ["pause", "unpause", "commit"]


async def test_without_a_pause(daemon: Engine, host: Host) -> None:
    container = await daemon.run(name="web")
    await commit(daemon, wanted(pause=False))
    assert daemon.events(container)[2:] == ["commit"]


async def test_a_paused_container_stays_paused(daemon: Engine) -> None:
    container = await daemon.run(name="web")
    await daemon.services.signals.pause("web")
    await commit(daemon, wanted())
    assert container.paused
    assert daemon.events(container)[2:] == ["pause", "commit"]


async def test_a_container_that_does_not_run(daemon: Engine, host: Host) -> None:
    container = await daemon.create(name="web")
    record = await commit(daemon, wanted())
    assert daemon.stores.images.get(record.id).id == record.id
    assert daemon.events(container) == ["create", "commit"]
    assert host.guest.launched == []


async def test_no_changes_make_no_layer(daemon: Engine, host: Host) -> None:
    host.guest.disk.layer = b""
    container = await daemon.create(name="web")
    images = daemon.stores.images
    config = images.config((await commit(daemon, wanted())).id)
    assert config.diff_ids == images.config(container.record.image_id).diff_ids
    assert config.history is not None
    assert config.history[-1].empty_layer is True


async def test_the_configuration_of_the_image(daemon: Engine) -> None:
    await daemon.create("sleeper", name="web")
    changes = ["ENV A=$B$PATH", 'ENTRYPOINT ["/init"]', "USER joe\nWORKDIR /srv", "ONBUILD RUN x"]
    given = ContainerConfig(cmd=["other"], env=["B=2"])
    config = daemon.stores.images.config((await commit(daemon, wanted(changes=changes, config=given))).id).config
    # The changes see and change what the client gives; both win over the container's configuration.
    assert (config.cmd, config.entrypoint, config.user, config.working_dir) == (None, ["/init"], "joe", "/srv")
    assert config.env == ["B=2", "A=2", "PATH=/bin"]
    assert config.on_build == ["RUN x"]
    # Without a configuration from the client they see and change the container's.
    config = daemon.stores.images.config((await commit(daemon, wanted(changes=changes))).id).config
    assert (config.cmd, config.entrypoint, config.on_build) == (None, ["/init"], ["RUN x"])
    assert config.env == ["PATH=/bin", "A=/bin"]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (wanted(changes=["RUN x"]), "RUN is not a valid change command"),
        (wanted("empty@sha256:" + "0" * 64), "refusing to create a tag with a digest reference"),
        (wanted("Bad Name"), "invalid reference format"),
    ],
    ids=["instruction", "digest", "name"],
)
async def test_requests_that_are_refused_at_once(daemon: Engine, request_: Commit, text: str) -> None:
    container = await daemon.run(name="web")
    with pytest.raises(InvalidParameter, match=text):
        await commit(daemon, request_)
    assert daemon.events(container)[2:] == []


async def test_an_unknown_container(daemon: Engine) -> None:
    with pytest.raises(NotFound, match=r"^No such container: web$"):
        await commit(daemon, wanted())


async def test_after_a_failure_nothing_remains(daemon: Engine, host: Host) -> None:
    container = await daemon.run(name="web")
    images = daemon.stores.images
    before = ([record.id for record in images.all()], images.layers())
    host.guest.disk.broken = "the disk is on fire"
    with pytest.raises(VchError, match="the disk is on fire"):
        await commit(daemon, wanted("mine"))
    assert ([record.id for record in images.all()], images.layers()) == before
    # The container runs on.
    assert container.running
    assert not container.paused
    assert daemon.events(container)[2:] == ["pause", "unpause"]


async def test_a_container_that_ends_meanwhile(daemon: Engine, host: Host) -> None:
    container = await daemon.run(name="web")
    disk = host.guest.disk
    disk.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit, daemon, wanted("mine", pause=False))
        await disk.held.wait()
        host.guest.process(container.id).signal(15)
        await daemon.machine_gone(container)
        # Its files are read again, now in a machine without its process.
        disk.hold.set()
    assert len(daemon.stores.images.config(daemon.stores.images.get("mine").id).diff_ids) == 2
    assert container.exits == 1
