"""Names as distribution/reference reads them."""

import pytest

from appliance.errors import InvalidParameter
from appliance.image.reference import parse_reference

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
