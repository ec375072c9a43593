"""The column IMAGE of `docker ps`."""

from types import SimpleNamespace
from typing import Any

from appliance.api.image_names import ImageNames
from appliance.errors import InvalidParameter, NotFound


class _Images:
    def __init__(self) -> None:
        self.ids = {"app:1": "sha256:1", "moved": "sha256:2", "abc": "sha256:abc"}
        self.lookups: list[str] = []

    def get(self, name: str) -> Any:
        self.lookups.append(name)
        if name == "BAD":
            raise InvalidParameter("invalid reference format")
        if name not in self.ids:
            raise NotFound(f"No such image: {name}")
        return SimpleNamespace(id=self.ids[name])


def test_a_name_is_shown_as_long_as_it_names_the_image() -> None:
    images: Any = _Images()
    names = ImageNames(images)

    def shown(image: str, image_id: str) -> str:
        record: Any = SimpleNamespace(image=image, image_id=image_id)
        return names.shown(record)

    assert shown("app:1", "sha256:1") == "app:1"
    assert shown("abc", "sha256:abc") == "abc"
    for name in ("moved", "gone", "BAD", "sha256:1"):
        assert shown(name, "sha256:1") == "sha256:1"
    shown("app:1", "sha256:1")
    assert images.lookups == ["app:1", "abc", "moved", "gone", "BAD"]
