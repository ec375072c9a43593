"""Rules of volumes, as moby has them: names, use, anonymous volumes, mounts, disks of one machine at a time."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from appliance.container.config import ContainerConfig, Empty
from appliance.container.container_record import ContainerRecord
from appliance.container.event import Event
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created
from appliance.container.mounts import MountRecord
from appliance.diag.isolated import IsolatedTasks
from appliance.engine.machines.guest_config import own_mounts, volumes_of
from appliance.engine.model.container import Container
from appliance.engine.model.events import EventBus
from appliance.engine.model.layout import first_layout
from appliance.engine.model.mount_plan import TmpfsVolume
from appliance.engine.model.registry import ContainerRegistry
from appliance.engine.volumes import Volumes
from appliance.errors import Conflict, InvalidParameter, NotFound, Unavailable
from appliance.hypervisor.fake_disks import FakeDisks
from appliance.store import Database
from appliance.volume.bind_source import BindSources
from appliance.volume.nfs import NfsStore
from appliance.volume.store import VolumeStore


@dataclass
class _Room:
    """Volumes with a real store and database, and disks in memory."""

    root: Path
    volumes: Volumes
    store: VolumeStore
    disks: FakeDisks
    containers: ContainerRegistry
    events: EventBus
    nursery: trio.Nursery

    async def plan(self, host: dict[str, Any] | None = None, volumes: tuple[str, ...] = ()) -> list[MountRecord]:
        config = ContainerConfig(volumes={path: Empty() for path in volumes})
        return await self.volumes.plan(config, msgspec.convert(host or {}, HostConfig))

    async def container(
        self, name: str, host: dict[str, Any] | None = None, volumes: tuple[str, ...] = ()
    ) -> Container:
        """A container that was created with these mounts."""
        key = f"{len(self.containers.all()) + 1:x}" * 64
        mounts = await self.plan(host, volumes)
        record = ContainerRecord(key, name, 0, "sha256:0", "busybox", ContainerConfig(), HostConfig(), mounts=mounts)
        container = Container(record, self.root / key, Created())
        self.containers.add(container)
        return container

    def names(self) -> set[str]:
        return {record.name for record in self.volumes.all()}

    def told(self) -> list[tuple[str, str]]:
        """Action and volume of every event."""
        past = self.events.past(0)
        return [(event.action, event.id) for event in past]


@contextlib.asynccontextmanager
async def _opened(
    root: Path, *, shared: bool = True, why_no_shares: str = "", nfs_stores: dict[str, NfsStore] | None = None
) -> AsyncIterator[_Room]:
    async with Database.open(root / "state.db") as database, trio.open_nursery() as nursery:
        disks, containers, events = FakeDisks(), ContainerRegistry(), EventBus()
        store = VolumeStore(root, disks, shared=shared, nfs_stores=nfs_stores)
        volumes = Volumes(store, database, events, containers, BindSources(why_no_shares))
        await volumes.open(IsolatedTasks(nursery))
        yield _Room(root, volumes, store, disks, containers, events, nursery)
        nursery.cancel_scope.cancel()


# -- create, find, remove --------------------------------------------------------------------------------------------------


async def test_a_volume_is_there_until_it_is_removed_also_after_a_restart(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        made = await room.volumes.create("data", {"a": "b"}, {})
        assert made.kind == "directory"
        assert Path(room.volumes.mount_point(made)) == tmp_path / "volumes/data/_data"
        assert (tmp_path / "volumes/data/_data").is_dir()
        assert await room.volumes.create("data", {}, {}) is made
        assert room.told() == [("create", "data")]
    async with _opened(tmp_path) as room:
        assert room.volumes.get("data") == made
        await room.volumes.remove("data")
        assert room.told() == [("destroy", "data")]
        assert list((tmp_path / "volumes").iterdir()) == []
    async with _opened(tmp_path) as room:
        assert room.volumes.all() == []


async def test_a_volume_that_is_not_there(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        with pytest.raises(NotFound, match=r"^get none: no such volume$"):
            room.volumes.get("none")
        with pytest.raises(NotFound, match=r"^get none: no such volume$"):
            await room.volumes.remove("none")
        await room.volumes.remove("none", force=True)
        assert room.told() == []


async def test_one_name_has_one_set_of_options(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        made = await room.volumes.create("disk", {}, {"size": "1g"})
        assert room.disks.sizes == {tmp_path / "volumes/disk/disk.ext4": 1 << 30}
        assert room.volumes.disks() == [tmp_path / "volumes/disk/disk.ext4"]
        assert await room.volumes.create("disk", {}, {}) is made
        assert await room.volumes.create("disk", {}, {"size": "1g"}) is made
        with pytest.raises(Conflict, match=r"^create disk: volume already exists with other options$"):
            await room.volumes.create("disk", {}, {"size": "2g"})
        await room.volumes.remove("disk")
        assert room.disks.sizes == {}


async def test_a_wrong_name_or_option_makes_nothing(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        for name, options in (("a/b", {}), ("ok", {"nonsense": "1"}), ("ok", {"size": "x"})):
            with pytest.raises(InvalidParameter):
                await room.volumes.create(name, {}, options)
        assert room.names() == set()
        assert list((tmp_path / "volumes").iterdir()) == []


async def test_two_clients_make_one_volume(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(room.volumes.create, "same", {}, {})
        assert room.told() == [("create", "same")]


async def test_a_disk_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise Unavailable("no room")

    async with _opened(tmp_path) as room:
        monkeypatch.setattr(FakeDisks, "create", fail)
        with pytest.raises(Unavailable, match=r"^create disk: no room$"):
            await room.volumes.create("disk", {}, {"size": "1g"})
        assert room.names() == set()
        assert list((tmp_path / "volumes").iterdir()) == []


async def test_a_volume_in_use_cannot_be_removed_by_force_either(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        one = await room.container("one", {"Binds": ["data:/data"]})
        two = await room.container("two", {"Binds": ["data:/other:ro"]})
        for force in (False, True):
            with pytest.raises(Conflict) as caught:
                await room.volumes.remove("data", force=force)
            assert str(caught.value) == f"remove data: volume is in use - [{one.id}, {two.id}]"
        assert room.volumes.users("data") == [one.id, two.id]
        room.containers.remove(one)
        room.containers.remove(two)
        await room.volumes.remove("data")
        assert room.names() == set()


async def test_disks_whose_records_are_gone_are_known_again(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("known", {"a": "b"}, {})
        await room.volumes.inherit([("known", ""), ("found", "")])
        assert room.volumes.get("known").labels == {"a": "b"}
        assert room.volumes.get("found").kind == "disk"
    async with _opened(tmp_path) as room:
        assert room.names() == {"known", "found"}


async def test_what_was_half_made_or_half_removed_is_swept(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("kept", {}, {})
    (tmp_path / "volumes/half/_data").mkdir(parents=True)
    async with _opened(tmp_path):
        assert [path.name for path in (tmp_path / "volumes").iterdir()] == ["kept"]


# -- mounts of a new container ---------------------------------------------------------------------------------------------


async def test_volumes_are_made_for_a_container_and_anonymous_ones_go_with_it(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        container = await room.container("one", {"Binds": ["data:/data"]}, ("/anonymous", "/data"))
        named, anonymous = container.record.mounts
        assert (named.name, named.destination, named.anonymous) == ("data", "/data", False)
        assert (anonymous.destination, anonymous.anonymous) == ("/anonymous", True)
        assert len(anonymous.name) == 64
        assert anonymous.source == str(tmp_path / "volumes" / anonymous.name / "_data")
        assert room.volumes.get(anonymous.name).anonymous
        room.containers.remove(container)
        await room.volumes.discard_anonymous(container)
        assert room.names() == {"data"}


async def test_an_anonymous_volume_goes_with_its_last_user(tmp_path: Path) -> None:
    """moby's registerMountPoints copies the specification of a mount: without a source the volume is anonymous for both."""
    async with _opened(tmp_path) as room:
        first = await room.container("first", volumes=("/data",))
        second = await room.container("second", {"VolumesFrom": ["first:ro"]})
        (taken,) = second.record.mounts
        assert (taken.name, taken.read_only, taken.anonymous) == (first.record.mounts[0].name, True, True)
        # moby copies an image's files into a volume only for the container that made it.
        assert taken.no_copy
        room.containers.remove(first)
        await room.volumes.discard_anonymous(first)
        assert room.names() == {taken.name}
        room.containers.remove(second)
        await room.volumes.discard_anonymous(second)
        assert room.names() == set()


async def test_a_named_volume_of_another_container_stays(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        first = await room.container("first", {"Binds": ["data:/data:ro,z"]})
        second = await room.container("second", {"VolumesFrom": ["first:rw"]})
        # `rw` does not make a read-only mount writable. The mode is not taken over.
        assert [(mount.read_only, mount.mode) for mount in second.record.mounts] == [(True, "")]
        for container in (first, second):
            room.containers.remove(container)
            await room.volumes.discard_anonymous(container)
        assert room.names() == {"data"}


async def test_the_order_in_which_mounts_win(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.container("other", {"Binds": ["theirs:/a", "theirs:/b"]})
        host = {
            "VolumesFrom": ["other"],
            "Binds": ["mine:/b"],
            "Mounts": [{"Type": "volume", "Source": "third", "Target": "/c"}],
            "Tmpfs": {"/d": ""},
        }
        planned = {mount.destination: mount.name for mount in await room.plan(host, ("/a", "/b", "/c/", "/d"))}
        assert planned == {"/a": "theirs", "/b": "mine", "/c": "third"}


async def test_volumes_from_a_container_that_is_not_there_is_a_wrong_parameter(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        with pytest.raises(InvalidParameter, match="No such container: none"):
            await room.plan({"VolumesFrom": ["none"]})


@pytest.mark.parametrize("target", ["/", "relative"])
async def test_an_images_volume_needs_a_path(tmp_path: Path, target: str) -> None:
    async with _opened(tmp_path) as room:
        with pytest.raises(InvalidParameter, match=f"invalid volume specification: '{target}'"):
            await room.plan({}, (target,))


async def test_what_was_made_for_a_container_that_is_refused_goes_again(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("before", {}, {})
        mounts = ["before:/a", "new:/b", f"{tmp_path}/state.db/nothing:/c"]
        with pytest.raises(InvalidParameter, match="error while creating mount source path"):
            await room.plan({"Binds": mounts})
        assert room.names() == {"before"}


async def test_a_bind_makes_its_source_and_a_mount_does_not(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        (mount,) = await room.plan({"Binds": [f"{tmp_path}/made:/x"]})
        assert (mount.type, mount.source) == ("bind", f"{tmp_path}/made")
        assert (tmp_path / "made").is_dir()
        wanted = {"Type": "bind", "Source": f"{tmp_path}/missing", "Target": "/x"}
        with pytest.raises(InvalidParameter, match="bind source path does not exist: "):
            await room.plan({"Mounts": [wanted]})


@pytest.mark.parametrize("why_no_shares", ["", "no virtiofsd"])
async def test_modules_and_headers_are_those_of_the_guests_kernel(tmp_path: Path, why_no_shares: str) -> None:
    async with _opened(tmp_path, why_no_shares=why_no_shares) as room:
        binds = ["/lib/modules:/lib/modules:ro", "/usr/src:/src:ro"]
        container = await room.container("one", {"Binds": binds})
        plan = await room.volumes.mount_plan(container)
        assert (plan.shares, plan.disks) == ((), ())
        assert [placed.guest for placed in plan.placed] == ["/lib/modules", "/usr/src"]
        assert [mount.source for mount in own_mounts(plan, first_layout([], 0))] == [
            "/run/tether/modules/lib/modules",
            "/run/tether/modules/usr/src",
        ]
        found = {
            volume.destination: (volume.source, volume.make, volume.copy_up)
            for volume in volumes_of(plan, first_layout([], 0))
        }
        assert found["/lib/modules"] == ("/run/tether/modules/lib/modules", False, False)


async def test_a_writable_bind_is_the_hosts(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        plan = await room.volumes.mount_plan(await room.container("one", {"Binds": ["/usr/src:/src"]}))
        assert [share.path for share in plan.shares] == [Path("/usr/src")]


async def test_devices_cannot_be_bound(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        with pytest.raises(InvalidParameter, match="/dev/null is neither a directory nor a file"):
            await room.plan({"Binds": ["/dev/null:/x"]})


async def test_a_host_whose_paths_cannot_be_shared_says_why(tmp_path: Path) -> None:
    async with _opened(tmp_path, shared=False, why_no_shares="not root") as room:
        with pytest.raises(InvalidParameter, match="cannot be shared with a machine: not root"):
            await room.plan({"Binds": ["/etc:/x"]})
        # Volumes are disks then.
        (mount,) = await room.plan({"Binds": ["data:/x"]})
        assert room.volumes.get(mount.name).kind == "disk"


async def test_another_driver_has_no_volumes_here(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("old", {}, {})
        with pytest.raises(NotFound, match='error looking up volume plugin far: plugin "far" not found'):
            await room.plan({"Binds": ["new:/x"], "VolumeDriver": "far"})
        assert [mount.name for mount in await room.plan({"Binds": ["old:/x"], "VolumeDriver": "far"})] == ["old"]


# -- what a machine gets ---------------------------------------------------------------------------------------------------


async def test_each_kind_of_mount_has_its_place(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("disk", {}, {"size": "1g"})
        await room.volumes.create("memory", {}, {"type": "tmpfs", "o": "size=1m,mode=700"})
        await room.volumes.create("server", {}, {"type": "nfs", "device": "127.0.0.1:/exported", "o": "rw"})
        container = await room.container(
            "all",
            {
                "Binds": [
                    "directory:/0:ro",
                    "disk:/1",
                    "memory:/2",
                    "server:/3",
                    f"{tmp_path}:/4",
                    "memory:/6:ro",
                    "disk:/7",
                ],
                "Mounts": [{"Type": "tmpfs", "Target": "/5", "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 4096}}],
            },
        )
        plan = await room.volumes.mount_plan(container)
        placed = {one.mount.destination: one for one in plan.placed}
        assert (placed["/0"].share, placed["/4"].share) == (0, 1)
        assert [(share.path, share.read_only) for share in plan.shares] == [
            (tmp_path / "volumes/directory/_data", True),
            (tmp_path, False),
        ]
        assert (placed["/1"].disk, placed["/7"].disk) == (0, 0)
        assert [disk.path for disk in plan.disks] == [tmp_path / "volumes/disk/disk.ext4"]
        # Both mounts show one tmpfs.
        assert [placed[path].tmpfs_volume for path in ("/2", "/6")] == [0, 0]
        assert plan.tmpfs_volumes == (TmpfsVolume("memory", ("size=1m", "mode=700")),)
        assert (placed["/2"].is_tmpfs, placed["/5"].is_tmpfs) == (False, True)
        assert placed["/5"].tmpfs == ("mode=1777", "size=4096", "ro")
        server = placed["/3"].server
        assert server is not None
        assert (server.device, server.options) == ("127.0.0.1:/exported", ("vers=4.2", "rw", "addr=127.0.0.1"))


@pytest.mark.parametrize(
    ("binds", "others", "cached"),
    [
        # The only container that has the volume caches it. A path of the host is the host's, too.
        (["data:/d"], [], [True]),
        (["data:/d:consistent"], [], [False]),
        (["data:/d"], ["data:/d:ro"], [False]),
        (["data:/d:cached", "{root}:/p"], ["data:/d"], [True, False]),
        (["{root}:/p:delegated", "{root}:/q:ro"], [], [True, False]),
    ],
)
async def test_a_machine_caches_what_nobody_else_changes(
    tmp_path: Path, binds: list[str], others: list[str], cached: list[bool]
) -> None:
    async with _opened(tmp_path) as room:
        container = await room.container("one", {"Binds": [bind.format(root=tmp_path) for bind in binds]})
        await room.container("other", {"Binds": others})
        plan = await room.volumes.mount_plan(container)
        assert [share.cached for share in plan.shares] == cached


async def test_mounts_below_a_path_of_the_host(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        mount = {"Type": "bind", "Source": str(tmp_path), "Target": "/p", "BindOptions": {"NonRecursive": True}}
        container = await room.container("one", {"Mounts": [mount], "Binds": [f"{tmp_path}:/q"]})
        plan = await room.volumes.mount_plan(container)
        assert {placed.mount.destination: plan.shares[placed.share].recursive for placed in plan.placed} == {
            "/p": False,
            "/q": True,
        }


async def test_a_disk_is_of_one_machine_at_a_time(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("disk", {}, {"size": "1g"})
        one, two = [await room.container(name, {"Binds": ["disk:/x"]}) for name in ("one", "two")]
        await room.volumes.mount_plan(one)
        assert room.volumes.holders(two) == [one]
        assert room.volumes.holders(one) == []
        with pytest.raises(Conflict, match=f"{one.id[:12]}"):
            await room.volumes.mount_plan(two)
        # Its own container may ask again.
        await room.volumes.mount_plan(one)
        room.volumes.release_disks(one)
        await room.volumes.mount_plan(two)
        assert room.volumes.holders(one) == [two]


async def test_a_container_that_is_found_running_holds_its_disks(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("disk", {}, {"size": "1g"})
        one, two = [await room.container(name, {"Binds": ["disk:/x", "directory:/y"]}) for name in ("one", "two")]
        room.volumes.hold_disks(one)
        with pytest.raises(Conflict):
            await room.volumes.mount_plan(two)


async def test_a_volume_that_is_a_path_of_the_host_must_be_there_at_the_start(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        await room.volumes.create("bound", {}, {"type": "none", "o": "bind", "device": f"{tmp_path}/later"})
        container = await room.container("one", {"Binds": ["bound:/x"]})
        with pytest.raises(InvalidParameter, match=r"failed to mount local volume: .*later: no such file or directory"):
            await room.volumes.mount_plan(container)
        (tmp_path / "later").mkdir()
        plan = await room.volumes.mount_plan(container)
        assert plan.shares[0].path == tmp_path / "later"


async def test_events_of_mounts(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        container = await room.container("one", {"Binds": ["data:/x:ro", f"{tmp_path}:/y"]})
        room.volumes.emit("mount", container)
        room.volumes.emit("unmount", container)
        assert await room.volumes.prune(lambda record: False) == ([], 0)
        past = room.events.past(0)
        shown: list[Event] = [event for event in past if event.action != "create"]
        assert [(event.action, event.id, event.attributes) for event in shown] == [
            (
                "mount",
                "data",
                {
                    "driver": "local",
                    "container": container.id,
                    "destination": "/x",
                    "propagation": "",
                    "read/write": "false",
                },
            ),
            ("unmount", "data", {"driver": "local", "container": container.id}),
            ("prune", "", {"reclaimed": "0"}),
        ]


async def test_prune_removes_wanted_volumes_without_a_container(tmp_path: Path) -> None:
    async with _opened(tmp_path) as room:
        for name in ("one", "two", "used"):
            record = await room.volumes.create(name, {}, {})
            (Path(room.volumes.mount_point(record)) / "file").write_bytes(bytes(8192))
        await room.container("box", {"Binds": ["used:/x"]})
        removed, space = await room.volumes.prune(lambda record: record.name != "two")
        assert removed == ["one"]
        assert space >= 8192
        assert room.names() == {"two", "used"}
        past = room.events.past(0)
        assert [(event.action, event.attributes) for event in past][-1] == ("prune", {"reclaimed": str(space)})


# -- stores on servers -----------------------------------------------------------------------------------------------------


async def test_a_server_that_does_not_answer_holds_no_start_up_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    answers: list[list[str] | None] = [None, ["far"]]

    async def recover(_: NfsStore) -> list[str]:
        answer = answers.pop(0)
        if answer is None:
            raise Unavailable("no answer")
        return answer

    monkeypatch.setattr(NfsStore, "recover", recover)
    async with _opened(tmp_path, nfs_stores={"nfs": NfsStore("server", "/exported", 0, 0, "tenant")}) as room:
        assert room.volumes.all() == []
        await trio.sleep(31)
        # The clock jumps while a thread writes the record.
        for _ in range(100_000):
            if room.volumes.all():
                break
            await trio.sleep(0.1)
        (found,) = room.volumes.all()
        assert (found.name, found.kind, found.device) == ("far", "nfs", "server:/exported/tenant/far")
