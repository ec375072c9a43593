"""Names as distribution/reference reads them."""

import pytest

from appliance.errors import InvalidParameter
from appliance.image.reference import parse_reference, tag_reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox", "busybox:1.36"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/library/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("localhost:5000/a/b:t", "localhost:5000/a/b", "localhost:5000/a/b:t"),
        ("reg.example.test/app@" + DIGEST, "reg.example.test/app", "reg.example.test/app@" + DIGEST),
        ("127.0.0.1:5000/app", "127.0.0.1:5000/app", "127.0.0.1:5000/app"),
    ],
)
def test_names(text: str, full: str, familiar: str) -> None:
    reference = parse_reference(text)
    assert (reference.name, str(reference)) == (full, familiar)


@pytest.mark.parametrize(
    "text", ["", "UPPER", "a//b", "a:b:c", "a@sha256:12", "../x", "a" * 300, "a:" + "t" * 129, "b" * 64, "-a", "a b"]
)
def test_invalid_names(text: str) -> None:
    with pytest.raises(InvalidParameter):
        parse_reference(text)


@pytest.mark.parametrize(
    ("repository", "tag", "shown"),
    [
        ("app", "", "app:latest"),
        ("app:1", "", "app:1"),
        ("app", "2", "app:2"),
        ("app:1", "2", "app:2"),
        ("example.test:5000/sha256", "1", "example.test:5000/sha256:1"),
    ],
)
def test_names_of_new_tags(repository: str, tag: str, shown: str) -> None:
    assert str(tag_reference(repository, tag)) == shown


@pytest.mark.parametrize(
    ("repository", "tag", "message"),
    [
        ("sha256:abc", "", "refusing to create an ambiguous tag using digest algorithm as name"),
        ("sha256", "x", "refusing to create an ambiguous tag using digest algorithm as name"),
        ("docker.io/library/sha256", "", "refusing to create an ambiguous tag using digest algorithm as name"),
        (f"app@sha256:{'a' * 64}", "", "refusing to create a tag with a digest reference"),
        ("app", "-", "invalid tag format"),
        ("App", "", "invalid reference format: repository name must be lowercase"),
    ],
)
def test_names_that_no_tag_gets(repository: str, tag: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        tag_reference(repository, tag)
    assert str(caught.value) == message
