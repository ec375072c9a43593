"""Finding containers, and their names."""

from pathlib import Path

import pytest

from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created
from appliance.engine.model.container import Container
from appliance.engine.model.registry import ContainerRegistry
from appliance.errors import Conflict, InvalidParameter, NotFound


def added(registry: ContainerRegistry, container_id: str, name: str, image: str = "sha256:1") -> Container:
    registry.take_name(name, container_id)
    record = ContainerRecord(container_id, name, 1, image, "image", ContainerConfig(), HostConfig())
    container = Container(record, Path("nowhere"), Created())
    registry.add(container)
    return container


def test_a_container_is_found_by_id_name_and_prefix() -> None:
    registry = ContainerRegistry()
    first, second = added(registry, "ab" * 32, "web"), added(registry, "ac" * 32, "db")
    assert registry.get("ab" * 32) is first
    assert registry.get("web") is registry.get("/web") is first
    assert registry.get("ac") is second
    with pytest.raises(InvalidParameter, match=r"^Multiple IDs found with provided prefix: a$"):
        registry.get("a")
    for ref in ("f", "we", "", "a" * 65, "AB"):
        with pytest.raises(NotFound, match=rf"^No such container: {ref}$"):
            registry.get(ref)
    assert registry.all() == [first, second]


def test_a_name_goes_before_a_prefix() -> None:
    registry = ContainerRegistry()
    added(registry, "ab" * 32, "web")
    named = added(registry, "cd" * 32, "ab")
    assert registry.get("ab") is named


def test_a_name_is_free_again_after_the_container() -> None:
    registry = ContainerRegistry()
    container = added(registry, "ab" * 32, "web")
    with pytest.raises(Conflict, match=r'^Conflict\. The container name "/web" is already in use by container "abab'):
        registry.take_name("/web", "cd" * 32)
    registry.remove(container)
    assert not registry.has_name("web")
    assert registry.take_name("/web", "cd" * 32) == "web"
    registry.release_name("web")
    assert not registry.has_name("web")


@pytest.mark.parametrize("name", ["", "/", "a", "-ab", "a b", "a/b", "a\n"])
def test_an_invalid_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^Invalid container name "):
        ContainerRegistry().take_name(name, "ab" * 32)


def test_the_user_of_an_image() -> None:
    registry = ContainerRegistry()
    added(registry, "ab" * 32, "web", "sha256:2")
    assert registry.user_of_image("sha256:2", running=False) == "ab" * 6
    assert registry.user_of_image("sha256:2", running=True) is None
    assert registry.user_of_image("sha256:1", running=False) is None
