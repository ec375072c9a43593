"""Routes of images, on a store that has imported one image."""

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.api.image_transfers import ImageTransferRoutes
from appliance.api.images import ImageRoutes
from appliance.engine.model.events import EventBus
from appliance.image.reference import parse_reference
from appliance.image.store import ImageStore
from tests.appliance.api.asking import ask
from tests.appliance.image.test_pull import config_of, opened_store
from tests.archives import Pieces, Tar


class _Images:
    """The routes, and their events."""

    def __init__(self, routes: Any, events: EventBus, store: ImageStore) -> None:
        self.routes = routes
        self.store = store
        self._events = events

    async def ask(self, line: str, body: Any = None) -> tuple[int, Any]:
        return await ask(self.routes, line, body)

    async def names(self, query: str = "") -> list[list[str]]:
        status, shapes = await self.ask(f"GET /images/json{query}")
        assert status == 200
        return [shape["RepoTags"] for shape in shapes]

    def told(self) -> list[tuple[str, str]]:
        return [(event.action, event.attributes.get("name", "")) for event in self._events.past(0)]


def _tar() -> bytes:
    tar = Tar()
    tar.add("file", b"content")
    return tar.bytes()


@contextlib.asynccontextmanager
async def opened(root: Path, *, users: tuple[str, ...] = (), import_one: bool = True) -> AsyncIterator[_Images]:
    """A store with the image `app:1`, used by containers if `users` are given."""
    async with opened_store(root) as store:
        events = EventBus()

        class Containers:
            def all(self) -> list[Any]:
                return [SimpleNamespace(record=SimpleNamespace(image_id=record.id)) for record in store.all() if users]

            def user_of_image(self, image_id: str, *, running: bool) -> str | None:
                return users[0] if users and not running else None

        containers: Any = Containers()
        nothing: Any = None
        (root / "scratch").mkdir()
        routes = {
            **ImageRoutes(store, containers, nothing, events).routes(),
            **ImageTransferRoutes(store, nothing, events, root / "scratch").routes(),
        }
        images = _Images(routes, events, store)
        if import_one:
            status, answer = await images.ask(
                "POST /images/create?fromSrc=-&repo=app&tag=1&message=made&changes=LABEL%20a=1", _tar()
            )
            assert status == 200, answer
        yield images


async def test_import_list_and_inspect(tmp_path: Path) -> None:
    async with opened(tmp_path) as images:
        assert await images.names() == [["app:1"]]
        status, shape = await images.ask("GET /images/app:1/json")
        assert shape["GraphDriver"] == {"Name": "erofs", "Data": {}}
        # API 1.50 removed the fields that only containers have.
        old = (await images.ask("GET /v1.49/images/app:1/json"))[1]["Config"]
        assert (old.pop("Hostname"), "Hostname" in shape["Config"]) == ("", False)
        assert old.keys() - shape["Config"].keys() == {
            "Domainname",
            "AttachStdin",
            "AttachStdout",
            "AttachStderr",
            "Tty",
            "OpenStdin",
            "StdinOnce",
            "Image",
        }
        assert (status, shape["RepoTags"], shape["Comment"], shape["Os"]) == (200, ["app:1"], "made", "linux")
        status, rows = await images.ask(f"GET /images/{shape['Id']}/history")
        assert (status, len(rows), rows[0]["Id"], rows[0]["Tags"], rows[0]["Comment"]) == (
            200,
            1,
            shape["Id"],
            ["app:1"],
            "made",
        )
        for line in ("GET /images/none/json", "DELETE /images/none"):
            assert (await images.ask(line))[1] == {"message": "No such image: none:latest"}
        assert images.told() == [("import", "app:1")]


async def test_filters(tmp_path: Path) -> None:
    async with opened(tmp_path) as images:
        assert await images.names('?filters={"reference":["app"],"dangling":["false"],"label":["a=1"]}') == [["app:1"]]
        assert await images.names('?filters={"reference":["other"]}') == []
        for filters, status, message in (
            ('{"nonsense":["x"]}', 400, "invalid filter 'nonsense'"),
            ('{"before":["none"]}', 404, "No such image: none:latest"),
        ):
            assert await images.ask(f"GET /images/json?filters={filters}") == (status, {"message": message})


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ('{"reference":["app"]}', "invalid filter 'reference'"),
        ('{"dangling":["True"]}', "invalid filter 'dangling=[True]'"),
        ('{"dangling":["true","false"]}', "invalid filter 'dangling=[true false]'"),
        ('{"dangling":[]}', "invalid filter 'dangling'"),
        ('{"until":["1h","2h"]}', "more than one until filter specified"),
    ],
)
async def test_filters_that_prune_refuses(tmp_path: Path, filters: str, message: str) -> None:
    async with opened(tmp_path) as images:
        assert await images.ask(f"POST /images/prune?filters={filters}") == (400, {"message": message})
        assert await images.names() == [["app:1"]]


async def test_the_list_shows_only_the_names_that_reference_selects(tmp_path: Path) -> None:
    async with opened(tmp_path) as images:
        await images.ask("POST /images/app:1/tag?repo=team/app&tag=2")
        assert await images.names('?filters={"reference":["team/*"]}') == [["team/app:2"]]
        # The query parameter of API 1.24.
        assert await images.names("?filter=team/*") == [["app:1", "team/app:2"]]
        status, shapes = await images.ask("GET /v1.24/images/json?filter=team/*")
        assert (status, shapes[0]["RepoTags"]) == (200, ["team/app:2"])


async def test_tag_and_remove(tmp_path: Path) -> None:
    async with opened(tmp_path) as images:
        assert await images.ask("POST /images/app:1/tag?repo=team/app&tag=2") == (201, b"")
        assert await images.names() == [["app:1", "team/app:2"]]
        assert (await images.ask("POST /images/app:1/tag?repo=BAD"))[0] == 400
        assert await images.ask("POST /images/app:1/tag?repo=sha256&tag=y") == (
            400,
            {"message": "refusing to create an ambiguous tag using digest algorithm as name"},
        )
        assert await images.ask("DELETE /images/app:1") == (200, [{"Untagged": "app:1"}])
        status, done = await images.ask("DELETE /images/team/app:2")
        assert (status, done[0], len(done)) == (200, {"Untagged": "team/app:2"}, 3)
        assert await images.names() == []


async def test_an_image_in_use_is_removed_only_by_force(tmp_path: Path) -> None:
    async with opened(tmp_path, users=("c1",)) as images:
        status, body = await images.ask("DELETE /images/app:1")
        assert (status, "container c1 is using its" in body["message"]) == (409, True)
        assert (await images.ask("GET /images/json"))[1][0]["Containers"] == 1


async def test_prune(tmp_path: Path) -> None:
    async with opened(tmp_path) as images:
        assert await images.ask("POST /images/prune") == (200, {"ImagesDeleted": None, "SpaceReclaimed": 0})
        status, body = await images.ask('POST /images/prune?filters={"dangling":["false"]}')
        assert (status, body["ImagesDeleted"][0], body["SpaceReclaimed"] > 0) == (200, {"Untagged": "app:1"}, True)
        assert images.told()[-1][0] == "prune"
        assert await images.names() == []


async def test_images_that_change_during_a_prune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes a name of an image that is being pruned, and another client removes the next image."""
    tars = [Tar().add(name, b"x").bytes() for name in ("built", "removed")]
    async with opened(tmp_path) as images:
        store, remove = images.store, images.store.remove
        for tar in tars:
            await store.add_new_layer(Pieces(tar))
        await store.tag(store.get("app:1"), parse_reference("moved:1"), 1.0)
        removed = await store.add_image(config_of(tars[1:]))
        calls: list[str] = []

        async def remove_beside_others(text: str, *arguments: Any, **options: Any) -> list[dict[str, str]]:
            calls.append(text)
            done = await remove(text, *arguments, **options)
            if len(calls) == 1:
                built = await store.add_image(config_of(tars[:1]))
                await store.tag(built, parse_reference("moved:1"), 2.0)
                await remove(removed.id, *arguments, **options)
            return done

        monkeypatch.setattr(store, "remove", remove_beside_others)
        status, _ = await images.ask('POST /images/prune?filters={"dangling":["false"]}')
        assert (status, len(calls)) == (200, 1)
        assert store.get("moved:1").tagged == 2.0


@pytest.mark.parametrize(
    ("filters", "pruned"),
    [
        # The CLI adds true to the value of the user.
        ('{"dangling":["True","true"]}', False),
        ('{"dangling":["false"],"until":["0"]}', False),
        ('{"dangling":["false"],"until":["1h"]}', False),
        ('{"dangling":["false"],"label":["b"]}', False),
        ('{"dangling":["false"],"label!":["a"]}', False),
        ('{"dangling":["false"],"until":["0s"],"label":["a"]}', True),
        ('{"dangling":["0"]}', True),
    ],
)
async def test_filters_of_prune(tmp_path: Path, filters: str, pruned: bool) -> None:
    async with opened(tmp_path) as images:
        assert (await images.ask(f"POST /images/prune?filters={filters}"))[0] == 200
        assert await images.names() == ([] if pruned else [["app:1"]])


async def test_an_image_in_use_is_not_pruned(tmp_path: Path) -> None:
    async with opened(tmp_path, users=("c1",)) as images:
        assert (await images.ask('POST /images/prune?filters={"dangling":["0"]}'))[1]["ImagesDeleted"] is None


async def _commit(images: _Images, parent: str, comment: str) -> str:
    """An image that a commit without changes makes of another image; its id."""
    config = json.loads(images.store.get(parent).config)
    config["history"].append({"comment": comment, "empty_layer": True})
    record = await images.store.add_image(json.dumps(config).encode(), images.store.get(parent).id)
    return record.id


async def test_images_that_were_committed_from_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as images:
        base = images.store.get("app:1").id
        middle = await _commit(images, "app:1", "one")
        top = await _commit(images, middle, "two")
        # The untagged image between the others is hidden.
        assert [shape["Id"] for shape in (await images.ask("GET /images/json"))[1]] == [base, top]
        assert len((await images.ask("GET /images/json?all=1"))[1]) == 3
        rows = (await images.ask(f"GET /images/{top}/history"))[1]
        assert [(row["Id"], row["Tags"], row["Comment"]) for row in rows] == [
            (top, None, "two"),
            (middle, None, "one"),
            (base, ["app:1"], "made"),
        ]
        assert (await images.ask(f"DELETE /images/{middle}?force=1"))[0] == 409
        # A prune of dangling images takes the image that has no name, and its parent without a name.
        status, body = await images.ask("POST /images/prune")
        assert (status, body["ImagesDeleted"]) == (200, [{"Deleted": top}, {"Deleted": middle}])
        assert images.told()[-3:] == [("delete", top), ("delete", middle), ("prune", "")]
        assert await images.names("?all=1") == [["app:1"]]


def lines(answer: bytes) -> list[Any]:
    """The JSON lines of a chunked answer."""
    return [json.loads(line) for line in answer.splitlines() if line.startswith(b"{")]
