"""`docker create`: names, the image's configuration, and how much remains of a creation that fails."""

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import trio

from appliance.container.commit import Commit
from appliance.container.config import ContainerConfig, Empty
from appliance.container.exec_config import ExecConfig
from appliance.container.host_config import HostConfig, Ulimit
from appliance.container.lifecycle import Created
from appliance.errors import Conflict, HypervisorError, InvalidParameter, NotFound, Unavailable
from appliance.hypervisor import SCRATCH, DiskKind
from appliance.hypervisor.fake_disks import FakeDisks
from appliance.image.platform import Platform
from tests.appliance.engine.harness import Engine, Host, engine


class FullDisks(FakeDisks):
    """Disks with room for volumes only while `full`."""

    full = False

    async def create(self, path: Path, kind: DiskKind) -> None:
        await super().create(path, kind)
        if self.full and path.name == "upper.ext4":
            raise HypervisorError("no space left")


@pytest.fixture
async def host(nursery: trio.Nursery) -> Host:
    host = Host(nursery)
    host.disks = FullDisks()
    return host


async def test_ulimits_of_the_daemon_count_where_the_container_sets_none(host: Host, tmp_path: Path) -> None:
    flags = ("--default-ulimit", "nofile=1:1", "--default-ulimit", "nofile=10:20", "--default-ulimit", "core=5")
    async with engine(host, tmp_path, *flags) as daemon:
        container = await daemon.run(host=HostConfig(ulimits=[Ulimit("core", 7, 7)]))
        one = await daemon.services.execs.create(container.id, ExecConfig(cmd=["echo"]))
        await daemon.services.execs.start(one.id)
        for process in (host.guest.process(container.id), host.guest.process(one.id)):
            assert process.spec.process is not None
            limits = [(limit.type, limit.soft, limit.hard) for limit in process.spec.process.rlimits or ()]
            assert limits == [("RLIMIT_CORE", 7, 7), ("RLIMIT_NOFILE", 10, 20)]
        # The record keeps the client's words: another daemon may have other defaults.
        assert container.record.host_config.ulimits == [Ulimit("core", 7, 7)]
        assert daemon.services.creation.ulimits == (Ulimit("nofile", 20, 10), Ulimit("core", 5, 5))


async def test_a_container(daemon: Engine, host: Host) -> None:
    container = await daemon.create("sleeper", "x", name="/web", config=ContainerConfig(env=["A=1"]))
    record = container.record
    assert container.state == Created()
    assert (record.name, record.image) == ("web", "empty")
    # The image's configuration below the client's.
    assert sorted(record.config.env or []) == ["A=1", "PATH=/bin"]
    assert record.config.hostname == container.id[:12]
    assert daemon.registry.get("web") is container
    assert host.disks.sizes == {container.upper: SCRATCH.size}
    assert container.folder.is_dir()
    stored = daemon.stored(container)
    assert msgspec.json.encode(stored) == msgspec.json.encode(record)
    assert daemon.events(container) == ["create"]
    # Its machine comes with its start.
    assert host.vms.vms == {}


async def test_a_hostname_of_the_client_s(daemon: Engine) -> None:
    container = await daemon.create(config=ContainerConfig(hostname="db"))
    assert container.record.config.hostname == "db"


async def test_a_random_name(daemon: Engine) -> None:
    container = await daemon.create()
    left, _, right = container.record.name.partition("_")
    assert left.isalpha()
    assert right.isalpha()
    assert daemon.registry.get(container.record.name) is container


@pytest.mark.parametrize("name", ["a", "-web", "w b", "wéb", "a/b", "/", "a:b"])
async def test_invalid_names(daemon: Engine, name: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        await daemon.create(name=name)
    shown = name.removeprefix("/")
    assert str(caught.value) == f"Invalid container name ({shown}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"


async def test_two_creations_of_one_name_at_once(daemon: Engine) -> None:
    outcomes: list[object] = []

    async def create() -> None:
        try:
            outcomes.append(await daemon.create(name="web"))
        except Conflict as error:
            outcomes.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(create)
        nursery.start_soon(create)
    (error,) = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    container = daemon.registry.get("web")
    assert str(error) == (
        f'Conflict. The container name "/web" is already in use by container "{container.id}". '
        "You have to remove (or rename) that container to be able to reuse that name."
    )


async def test_an_unknown_image(daemon: Engine) -> None:
    with pytest.raises(NotFound, match=r"^No such image: none:latest$"):
        await daemon.services.creation.create("web", ContainerConfig(image="none"), HostConfig(), {})


async def test_no_command(daemon: Engine) -> None:
    with pytest.raises(InvalidParameter, match=r"^no command specified$"):
        await daemon.services.creation.create("web", ContainerConfig(image="empty"), HostConfig(), {})


async def test_a_link_to_nothing(daemon: Engine) -> None:
    text = r"^could not get container for db: No such container: db$"
    with pytest.raises(InvalidParameter, match=text):
        await daemon.create(name="web", host=HostConfig(links=["db:database"]))
    assert not daemon.registry.has_name("web")


async def test_a_container_keeps_its_neighbour_through_a_rename(daemon: Engine) -> None:
    web = await daemon.create(name="web")
    mode = f"container:{web.id}"
    for ref in ("web", web.id[:12], web.id):
        by_ref = f"container:{ref}"
        joiner = await daemon.create(host=HostConfig(network_mode=by_ref, pid_mode=by_ref, ipc_mode=by_ref))
        host_config = joiner.record.host_config
        assert (host_config.network_mode, host_config.pid_mode, host_config.ipc_mode) == (mode, mode, mode)
        assert joiner.record.attachments == []
        stored = daemon.stored(joiner)
        assert stored is not None
        assert stored.host_config.network_mode == mode


async def test_a_neighbour_that_does_not_exist(daemon: Engine) -> None:
    for host_config in (HostConfig(pid_mode="container:none"), HostConfig(ipc_mode="container:none")):
        with pytest.raises(InvalidParameter, match=r"^No such container: none$"):
            await daemon.create(name="joiner", host=host_config)
    assert not daemon.registry.has_name("joiner")
    # As in Docker, the start reports it.
    joiner = await daemon.create(name="joiner", host=HostConfig(network_mode="container:none"))
    assert joiner.record.host_config.network_mode == "container:none"


async def test_the_request_names_the_machine_and_the_image_does_not(daemon: Engine) -> None:
    labels = {"vch.machine": "one", "vch.machine-memory": "1g"}
    container = await daemon.create(name="web", config=ContainerConfig(labels=labels))
    assert (container.record.machine_name, container.record.machine_memory) == ("one", 1 << 30)
    image = await daemon.services.commits.commit("web", Commit("labelled", "", "", True, [], None))
    assert (daemon.stores.images.config(image.id).config.labels or {})["vch.machine"] == "one"
    config = ContainerConfig(image="labelled", cmd=["sleeper"])
    other = await daemon.services.creation.create("other", config, HostConfig(), {})
    assert (other.record.config.labels or {})["vch.machine"] == "one"
    assert (other.record.machine_name, other.record.machine_memory) == ("", 0)
    for wrong in ({"vch.machine": ""}, {"vch.machine-memory": "much"}):
        with pytest.raises(InvalidParameter, match=r"^invalid label vch\.machine"):
            await daemon.create(name="third", config=ContainerConfig(labels=wrong))


async def test_platforms_are_compared(daemon: Engine) -> None:
    creation = daemon.services.creation
    assert creation.check_platform("empty", Platform("linux", "amd64")) == []
    (warning,) = creation.check_platform("empty", Platform("linux", "arm64"))
    assert warning == (
        "The requested image's platform (linux/amd64) does not match the detected host platform (linux/arm64) "
        "and no specific platform was requested"
    )
    with pytest.raises(NotFound) as caught:
        creation.check_platform("empty", Platform("linux", "arm64", given=True))
    assert str(caught.value) == (
        "image with reference empty was found but its platform (linux/amd64) "
        "does not match the specified platform (linux/arm64)"
    )


def leftovers(daemon: Engine, host: Host, root: Path) -> tuple[list[str], list[str], list[Path]]:
    """(Names of containers, of volumes, what lies in the folder of containers and which disks there are)."""
    containers = root / "data" / "containers"
    names = [container.record.name for container in daemon.registry.all()]
    volumes = [record.name for record in daemon.stores.volumes.all()]
    return names, volumes, sorted([*containers.iterdir(), *host.disks.sizes])


@pytest.mark.parametrize("step", ["volume", "disk", "record"])
async def test_a_step_that_fails(daemon: Engine, host: Host, tmp_path: Path, step: str) -> None:
    config, settings = ContainerConfig(volumes={"/data": Empty()}), HostConfig()
    error: type[Exception] = Unavailable
    assert isinstance(host.disks, FullDisks)
    match step:
        case "volume":
            # The anonymous volume is there when the second one turns out to be nonsense.
            config.volumes = {"/data": Empty(), "relative": Empty()}
            error = InvalidParameter
        case "disk":
            host.disks.full = True
            error = HypervisorError
        case _:
            # A volume would fail before the container's record.
            config.volumes = None
            daemon.database._connection.execute("PRAGMA query_only=ON")
    before = leftovers(daemon, host, tmp_path)
    with pytest.raises(error):
        await daemon.create(name="web", config=config, host=settings)
    daemon.database._connection.execute("PRAGMA query_only=OFF")
    host.disks.full = False
    assert leftovers(daemon, host, tmp_path) == before
    # Its name is free.
    container = await daemon.create(name="web")
    assert daemon.stored(container) is not None


@pytest.fixture
async def small(host: Host, tmp_path: Path) -> AsyncIterator[Engine]:
    """A daemon with room for one container."""
    async with engine(host, tmp_path, "--storage-quota", f"{SCRATCH.size}") as daemon:
        yield daemon


async def test_the_quota(small: Engine, host: Host, tmp_path: Path) -> None:
    await small.create(name="one")
    before = leftovers(small, host, tmp_path)
    with pytest.raises(Unavailable, match=r"^storage quota exceeded: "):
        await small.create(name="two", config=ContainerConfig(volumes={"/data": Empty()}))
    assert leftovers(small, host, tmp_path) == before
    assert not small.registry.has_name("two")
