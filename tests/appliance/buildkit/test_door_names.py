"""Names of images at the door: from the user's name and back, for each kind of registry host."""

import pytest

from appliance.buildkit.door_names import (
    cut_names,
    cut_names_in,
    is_door,
    local_name,
    names_door,
    repository_of,
    upload_name,
)

DOOR = "vch.internal:4711"


@pytest.mark.parametrize(
    ("registry", "at_door"),
    [
        ("docker.io", "docker.io"),
        ("localhost", "localhost"),
        ("localhost:5000", "localhost_5000"),
        ("127.0.0.1:5000", "127.0.0.1_5000"),
        ("xn--bcher-kva.example:8080", "xn--bcher-kva.example_8080"),
    ],
)
def test_a_local_image_has_one_name_at_the_door_from_which_its_own_follows(registry: str, at_door: str) -> None:
    name = local_name(DOOR, registry, "library/x:1")
    assert name == f"{DOOR}/{at_door}/library/x:1"
    assert repository_of(f"{at_door}/library/x") == f"{registry}/library/x"
    assert cut_names(f"[1/2] FROM {name}@sha256:abc") == f"[1/2] FROM {registry}/library/x:1@sha256:abc"


@pytest.mark.parametrize("registry", ["Registry.example", "[::1]:5000", "a_b", ""])
def test_a_host_that_a_path_cannot_hold_has_no_name_at_the_door(registry: str) -> None:
    assert local_name(DOOR, registry, "x:1") is None


@pytest.mark.parametrize("path", ["x", "/x", "x/", "", "a_b/x", "../x", "UPPER/x", "a__1/x"])
def test_other_paths_mean_no_repository(path: str) -> None:
    assert repository_of(path) is None


def test_what_a_build_pushes_is_shown_under_the_names_of_the_user() -> None:
    name = upload_name(DOOR, "0a1b")
    text = f"pushing manifest for {name}@sha256:1"
    assert cut_names(text, "docker.io/library/x:1") == "pushing manifest for docker.io/library/x:1@sha256:1"
    assert cut_names(text) == "pushing manifest for image@sha256:1"


def test_bytes_that_are_no_text_stay() -> None:
    assert cut_names_in(b"\xff\x00 vch.internal:1/docker.io/x \xfe") == b"\xff\x00 docker.io/x \xfe"
    assert names_door(b"... vch.internal:1 ...")
    assert not names_door(b"vch.internalx:1")


@pytest.mark.parametrize(
    ("text", "door"),
    [
        ("vch.internal:1/x:1", True),
        ("VCH.Internal/x", True),
        ("docker-image://vch.internal:9/docker.io/x", True),
        ("docker-image://docker.io/vch.internal/x", False),
        ("vch.internal.example/x", False),
        ("x", False),
    ],
)
def test_names_of_the_door_are_recognised(text: str, door: bool) -> None:
    assert is_door(text) is door
