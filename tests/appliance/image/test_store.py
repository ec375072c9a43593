"""The image store: names, removal, layers that images share, what survives a restart."""

from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.errors import Conflict, NotFound, ProtocolError, Unavailable
from appliance.image.known_blobs import Blob
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore
from appliance.store import Database
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces, Tar


def _tar(name: str) -> bytes:
    return Tar().add(name, name.encode() * 1000).bytes()


async def _image(store: ImageStore, tars: list[bytes], *names: str) -> ImageRecord:
    for tar in tars:
        await store.add_new_layer(Pieces(tar))
    record = await store.add_image(config_of(tars))
    for name in names:
        await store.tag(record, parse_reference(name).with_default_tag(), 1.0)
    return record


def _nobody(image_id: str, *, running: bool) -> None:
    return None


async def test_an_image_is_found_by_all_its_names(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        record = await _image(store, [_tar("a")], "app", "registry.example:5000/team/app:v2")
        digest = "sha256:" + "d" * 64
        await store.tag(record, parse_reference("app"), 2.0, digest)
        short = record.id[7:19]
        for text in ("app", "app:latest", "docker.io/library/app", "registry.example:5000/team/app:v2"):
            assert store.get(text) is record
        for text in (record.id, record.id[7:], short, f"sha256:{short}", f"app@{digest}"):
            assert store.get(text) is record
        for text, shown in (
            ("none", "none:latest"),
            ("app:v2", "app:v2"),
            ("0" * 64, "0" * 64),
            (f"sha256:{'0' * 64}", f"sha256:{'0' * 64}"),
            (f"app@sha256:{'e' * 64}", f"app@sha256:{'e' * 64}"),
        ):
            with pytest.raises(NotFound) as caught:
                store.get(text)
            assert str(caught.value) == f"No such image: {shown}"


async def test_all_of_it_survives_a_restart(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        record = await _image(store, [_tar("a"), _tar("b")], "app")
        blob = Blob("sha256:" + "b" * 64, 5, "kind", "docker.io/library/app")
        diff_id = store.config(record.id).diff_ids[0]
        await store.learn(diff_id, blob)
    async with opened_store(tmp_path) as store:
        assert store.all() == [record]
        assert store.get("app").id == record.id
        assert store.size(record) == 2000
        assert store.blobs_of(diff_id) == [blob]
        assert [path.exists() for path in store.layer_paths(record.id)] == [True, True]
        assert await store.layers_used() == 2000


async def test_a_tag_moves_from_one_image_to_the_next(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        old = await _image(store, [_tar("a")], "app")
        new = await _image(store, [_tar("b")], "app")
        assert (old.references, new.references) == ([], ["docker.io/library/app:latest"])
        assert not await store.tag(new, parse_reference("app:latest"), 9.0)
        assert new.tagged == 1.0
    async with opened_store(tmp_path) as store:
        assert store.get(old.id).references == []


async def test_layers_stay_as_long_as_an_image_has_them(tmp_path: Path) -> None:
    gone: list[Path] = []
    async with opened_store(tmp_path, on_layer_gone=gone.append) as store:
        base, top = _tar("base"), _tar("top")
        one, two = await _image(store, [base], "one"), await _image(store, [base, top], "two")
        assert store.shared_sizes() == {one.id: 4000, two.id: 4000}
        first, second = store.layer_paths(two.id)
        assert await store.remove("two", _nobody, force=False) == [
            {"Untagged": "two:latest"},
            {"Deleted": two.id},
            {"Deleted": store_id(second)},
        ]
        assert (first.exists(), second.exists(), gone) == (True, False, [second])
        await store.remove("one", _nobody, force=False)
        assert list((tmp_path / "layers").iterdir()) == []


def store_id(path: Path) -> str:
    return f"sha256:{path.stem}"


async def test_an_image_in_use_stays_without_a_name(tmp_path: Path) -> None:
    def user(image_id: str, *, running: bool) -> str | None:
        return None if running else "0123456789ab"

    async with opened_store(tmp_path) as store:
        record = await _image(store, [_tar("a")], "one")
        with pytest.raises(Conflict, match="container 0123456789ab is using its referenced image"):
            await store.remove("one", user, force=False)
        assert await store.remove("one", user, force=True) == [{"Untagged": "one:latest"}]
        assert store.get(record.id) is record
        with pytest.raises(Conflict, match="image is being used by stopped container 0123456789ab"):
            await store.remove(record.id, user, force=False)
        assert (await store.remove(record.id, _nobody, force=False))[0] == {"Deleted": record.id}
        assert store.all() == []


async def test_images_that_were_committed_from_others(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        tars = [_tar("base"), _tar("middle"), _tar("top")]
        base = await _image(store, tars[:1], "base")
        for tar in tars[1:]:
            await store.add_new_layer(Pieces(tar))
        middle = await store.add_image(config_of(tars[:2]), base.id)
        top = await store.add_image(config_of(tars), middle.id)
        # An image without a name is listed as long as no other image was made of it.
        assert [record.id for record in store.listed()] == [base.id, top.id]
        assert [record.id for record in store.ancestors(top)] == [middle.id, base.id]
        with pytest.raises(Conflict, match=r"cannot be forced\) - image has dependent child images"):
            await store.remove(middle.id, _nobody, force=True)
        deleted = await store.remove(top.id, _nobody, force=False, prune_parents=False)
        assert deleted[0] == {"Deleted": top.id}
        assert [record.id for record in store.listed()] == [base.id, middle.id]
        for tar in tars[2:]:
            await store.add_new_layer(Pieces(tar))
        top = await store.add_image(config_of(tars), middle.id)
        # The parent without a name goes, too; the one with a name stays.
        deleted = await store.remove(top.id, _nobody, force=False)
        assert [item["Deleted"] for item in deleted if item["Deleted"] in (top.id, middle.id)] == [top.id, middle.id]
        assert [record.id for record in store.all()] == [base.id]


async def test_two_builds_that_make_the_same_image_keep_both_names(tmp_path: Path) -> None:
    tar = _tar("a")
    async with opened_store(tmp_path) as store:
        await store.add_new_layer(Pieces(tar))

        async def build(name: str) -> None:
            record = await store.add_image(config_of([tar]))
            await store.tag(record, parse_reference(name).with_default_tag(), 1.0)

        async with trio.open_nursery() as nursery:
            for name in ("one", "two", "three"):
                nursery.start_soon(build, name)
        (record,) = store.all()
        names = {"docker.io/library/one:latest", "docker.io/library/two:latest", "docker.io/library/three:latest"}
        assert set(record.references) == names
    async with opened_store(tmp_path) as store:
        assert set(store.all()[0].references) == names


async def test_a_new_image_has_its_name_before_a_prune_finds_it(tmp_path: Path) -> None:
    """The name moves from another image, which takes a while: a prune looks for images without a name meanwhile."""
    async with opened_store(tmp_path) as store:
        await _image(store, [_tar("a")], "app")
        await store.add_new_layer(Pieces(_tar("b")))
        new = await store.add_image(config_of([_tar("b")]))

        async def prune() -> None:
            # The newest first: `tag` has not ended by then.
            for record in reversed(store.listed()):
                if not record.references:
                    await store.remove(record.id, _nobody, force=False)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.tag, new, parse_reference("app:latest"), 1.0)
            # Between the first step of `tag` and its end, with images that come and go.
            await trio.lowlevel.checkpoint()
            nursery.start_soon(prune)
            nursery.start_soon(_image, store, [_tar("c")], "other")
        assert store.get("app") is new
        assert {name for record in store.all() for name in record.references} == {
            "docker.io/library/app:latest",
            "docker.io/library/other:latest",
        }


async def test_an_image_that_is_removed_gets_no_name_and_may_come_again(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        old = await _image(store, [_tar("a")], "app")
        async with trio.open_nursery() as nursery, store.pinned(store.config(old.id).diff_ids):
            nursery.start_soon(partial(store.remove, "app", _nobody, force=False))
            for _ in range(2):
                await trio.lowlevel.checkpoint()
            # The removal waits for the disk.
            with pytest.raises(NotFound, match="No such image: sha256:"):
                await store.tag(old, parse_reference("late:1"), 1.0)
            new = await store.add_image(config_of([_tar("a")]))
            await store.tag(new, parse_reference("new:1"), 1.0)
        assert [record.references for record in store.all()] == [["docker.io/library/new:1"]]
        assert [path.exists() for path in store.layer_paths(new.id)] == [True]
    async with opened_store(tmp_path) as store:
        assert [record.references for record in store.all()] == [["docker.io/library/new:1"]]


async def test_pinned_layers_wait_for_their_image(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        layer = await store.add_new_layer(Pieces(_tar("a")))
        async with store.pinned([layer.diff_id]):
            await store.sweep()
            assert store.has_layer(layer.diff_id)
        assert not store.has_layer(layer.diff_id)


async def test_an_image_without_all_its_layers_is_refused(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        with pytest.raises(ProtocolError, match=r"the image's layer sha256:.* is missing"):
            await store.add_image(config_of([_tar("a")]))


async def test_two_pulls_of_a_layer_convert_it_once(tmp_path: Path) -> None:
    tar = _tar("a")
    read: list[int] = []

    async with opened_store(tmp_path) as store:
        layer = await store.add_new_layer(Pieces(tar))

        async def source() -> AsyncGenerator[bytes, None]:
            read.append(1)
            yield b""

        assert await store.add_layer(layer.diff_id, source()) is None
        assert read == []


async def test_a_blob_with_another_digest_than_expected(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        wrong = "sha256:" + "0" * 64
        with pytest.raises(ProtocolError, match=f"its config says {wrong}"):
            await store.add_layer(wrong, Pieces(_tar("a")))
        with pytest.raises(ProtocolError, match="filesystem layer verification failed for digest sha256:1"):
            await store.add_layer(wrong, Pieces(_tar("a")), Blob("sha256:1", 1, "", "x"))
        assert list((tmp_path / "layers").iterdir()) == []


async def test_a_quota_refuses_a_layer_and_leaves_nothing(tmp_path: Path) -> None:
    async def admit(size: int) -> None:
        raise Unavailable(f"no room for {size}")

    async with opened_store(tmp_path, admit=admit) as store:
        with pytest.raises(Unavailable, match="no room for 1000"):
            await store.add_new_layer(Pieces(_tar("a")))
        assert list((tmp_path / "layers").iterdir()) == []
    async with Database.open(tmp_path / "state.db") as database:
        assert database.load("layer") == {}


async def test_a_quota_ends_a_conversion_before_the_disk_is_full(tmp_path: Path) -> None:
    """The layer is refused as soon as its files pass the room that is left."""

    async def admit(size: int) -> None:
        if size > 1 << 20:
            raise Unavailable(f"no room for {size}")

    async def room() -> int:
        return 1 << 20

    source = Pieces(Tar().add("a", bytes(1 << 20)).add("b", bytes(64 << 20)).bytes())
    async with opened_store(tmp_path, admit=admit, room=room) as store:
        with pytest.raises(Unavailable, match=f"no room for {65 << 20}"):
            await store.add_new_layer(source)
        assert source.sent < 8 << 20
        assert list((tmp_path / "layers").iterdir()) == []
        # What fits is taken.
        await store.add_new_layer(Pieces(_tar("a")))


async def test_a_layer_is_found_by_the_digests_of_its_tar_and_its_blobs(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        record = await _image(store, [_tar("a")], "app")
        (diff_id,) = store.config(record.id).diff_ids
        blob = Blob("sha256:" + "b" * 64, 5, "kind", "docker.io/library/app")
        await store.learn(diff_id, blob)
        assert store.find_blob(diff_id) == (diff_id, None)
        assert store.find_blob(blob.digest) == (diff_id, blob)
        assert store.find_blob("sha256:" + "c" * 64) is None
        await store.remove("app", _nobody, force=False)
        assert store.find_blob(diff_id) is store.find_blob(blob.digest) is None


async def test_the_size_of_a_tar_is_known_also_for_layers_of_version_0_1(tmp_path: Path) -> None:
    tar = _tar("a")
    async with opened_store(tmp_path) as store:
        record = await _image(store, [tar], "app")
        (diff_id,) = store.config(record.id).diff_ids
        assert store.tar_size(diff_id) == len(tar)
    async with Database.open(tmp_path / "state.db") as database:
        assert database.load("tar") == {diff_id: b"%d" % len(tar)}
        await database.remove("tar", diff_id)
    async with opened_store(tmp_path) as store:
        assert store.tar_size(diff_id) == len(tar)
        assert b"".join(store.tar_of(diff_id, 700)) == tar[700:]
        await store.remove("app", _nobody, force=False)
    async with Database.open(tmp_path / "state.db") as database:
        assert {**database.load("tar"), **database.load("layer"), **database.load("blob")} == {}


async def test_pins_are_released_together(tmp_path: Path) -> None:
    async with opened_store(tmp_path) as store:
        async with store.pins() as pins:
            one = await store.add_new_layer(Pieces(_tar("a")), pins)
            two = await store.add_new_layer(Pieces(_tar("b")), pins)
            # Twice is as once.
            pins.add(one.diff_id)
            assert pins.held == [one.diff_id, two.diff_id]
            await store.sweep()
            assert store.has_layer(one.diff_id)
            await store.add_image(config_of([_tar("b")]))
        assert [store.has_layer(layer.diff_id) for layer in (one, two)] == [False, True]


async def test_a_layer_that_is_pinned_while_others_are_removed_stays(tmp_path: Path) -> None:
    """A removal waits for the database after each layer."""
    async with opened_store(tmp_path) as store:
        await _image(store, [_tar("a"), _tar("b")], "app")
        (upper, lower) = (store_id(path) for path in store.layer_paths(store.get("app").id)[::-1])
        async with store.pins() as pins, trio.open_nursery() as nursery:
            nursery.start_soon(partial(store.remove, "app", _nobody, force=False))
            while store.has_layer(upper):
                await trio.lowlevel.checkpoint()
            assert store.find_blob(lower) is not None
            pins.add(lower)
            while store.all():
                await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert store.has_layer(lower)


async def test_many_conversions_at_once_do_not_block_the_loop(tmp_path: Path) -> None:
    """Conversions of many layers at once run beside the loop."""
    async with opened_store(tmp_path) as store:
        beats = 0

        async def heart() -> None:
            nonlocal beats
            while True:
                await trio.sleep(0.001)
                beats += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(heart)
            async with trio.open_nursery() as inner:
                for number in range(20):
                    inner.start_soon(store.add_new_layer, Pieces(_tar(f"file{number}") + bytes(1 << 20)))
            nursery.cancel_scope.cancel()
        assert beats > 5
        assert len(store.layers()) == 20
