"""The filters of `docker images` and of its prune."""

from typing import Any

import pytest

from appliance.api.filters import parse_filters
from appliance.api.image_filters import image_filter
from appliance.container.config import ContainerConfig
from appliance.errors import InvalidParameter, NotFound
from appliance.image.config import ImageConfig
from appliance.image.store import ImageRecord

_DIGEST = f"sha256:{'d' * 64}"
_RECORDS = [
    ImageRecord("old", b"", ["docker.io/library/app:1"], [f"docker.io/library/app@{_DIGEST}"]),
    ImageRecord("new", b"", ["docker.io/team/app:2", "example.test:5000/app:2"]),
    ImageRecord("digest", b"", [], [f"docker.io/library/other@{_DIGEST}"]),
    ImageRecord("bare", b""),
]
_CONFIGS = {
    "old": ImageConfig(created="2024-01-01T00:00:00.1Z", config=ContainerConfig(labels={"a": "1", "b": ""})),
    "new": ImageConfig(created="2024-01-01T00:00:00.2Z", config=ContainerConfig(labels={"a": "2"})),
    "digest": ImageConfig(created="2024-06-01T00:00:00Z"),
    "bare": ImageConfig(),
}


class _Store:
    def all(self) -> list[ImageRecord]:
        return _RECORDS

    def get(self, ref: str) -> ImageRecord:
        if ref not in _CONFIGS:
            raise NotFound(f"No such image: {ref}:latest")
        return next(record for record in _RECORDS if record.id == ref)

    def config(self, image_id: str) -> ImageConfig:
        return _CONFIGS[image_id]


async def _shown(text: str) -> list[ImageRecord]:
    store: Any = _Store()
    selected = await image_filter(parse_filters(text, "GET /images/json"), store)
    return [record for record in map(selected.shown, _RECORDS) if record is not None]


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ("{}", ["old", "new", "digest", "bare"]),
        ('{"dangling":["true"]}', ["digest", "bare"]),
        # An image with a digest and without a tag is listed both times.
        ('{"dangling":["0"]}', ["old", "new", "digest"]),
        ('{"label":["a"]}', ["old", "new"]),
        ('{"label":["a=1","b"]}', ["old"]),
        ('{"label!":["a=1"]}', ["new", "digest", "bare"]),
        ('{"label!":["a=1","a=2"]}', ["digest", "bare"]),
        ('{"label":["a!=1"]}', ["new", "digest", "bare"]),
        ('{"label!":["a!"]}', ["old", "new"]),
        # Times of less than a second count.
        ('{"before":["new"]}', ["old"]),
        ('{"since":["old"]}', ["new", "digest"]),
        ('{"since":["old"],"before":["digest"]}', ["new"]),
        ('{"before":["digest","new"]}', ["old"]),
        # A bound without a time bounds nothing, but an image without a time has no place in an order.
        ('{"since":["bare"]}', ["old", "new", "digest"]),
        ('{"until":["2024-02-01Z"]}', ["old", "new"]),
        ('{"until":["2024-02-01Z","1"]}', []),
        ('{"until":["0"]}', []),
        ('{"reference":["app"]}', ["old"]),
        ('{"reference":["*:1"]}', ["old"]),
        ('{"reference":["docker.io/library/app"]}', ["old"]),
        ('{"reference":["docker.io/*/app:*"]}', ["old", "new"]),
        ('{"reference":["example.test:5000/*"]}', ["new"]),
        ('{"reference":["*/app"]}', ["new"]),
        ('{"reference":["other"]}', ["digest"]),
        ('{"reference":["docker*"]}', []),
        ('{"reference":["nobody","[a-b]pp"]}', ["old"]),
    ],
)
async def test_what_is_listed(filters: str, ids: list[str]) -> None:
    assert [record.id for record in await _shown(filters)] == ids


async def test_only_the_names_that_reference_selects_are_shown() -> None:
    assert [(record.references, record.digests) for record in await _shown('{"reference":["app:1","team/*"]}')] == [
        (["docker.io/library/app:1"], []),
        (["docker.io/team/app:2"], []),
    ]
    assert _RECORDS[1].references == ["docker.io/team/app:2", "example.test:5000/app:2"]


@pytest.mark.parametrize(
    ("filters", "error", "message"),
    [
        ('{"dangling":["maybe"]}', InvalidParameter, "invalid filter 'dangling=[maybe]'"),
        ('{"reference":["a["]}', InvalidParameter, "syntax error in pattern"),
        ('{"before":["none"]}', NotFound, "No such image: none:latest"),
        ('{"since":["none"]}', NotFound, "No such image: none:latest"),
        (
            '{"until":["soon"]}',
            InvalidParameter,
            "invalid value for 'until' filter: failed to parse value as time or duration: \"soon\" is neither a duration nor a date "
            "nor unix seconds",
        ),
    ],
)
async def test_values_that_are_refused(filters: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        await _shown(filters)
    assert str(caught.value) == message
