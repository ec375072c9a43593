"""Platforms."""

import pytest

from appliance.errors import InvalidParameter
from appliance.image.platform import OURS, Platform, parse_platform, platform_of


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("arm64", "linux/arm64"),
        ("LINUX/X86_64", "linux/amd64"),
        ("linux", "linux/amd64"),
        ("windows", "windows/amd64"),
        ("linux/aarch64", "linux/arm64"),
    ],
)
def test_names_of_platforms(text: str, shown: str) -> None:
    platform = parse_platform(text)
    assert platform.given
    assert str(platform) == shown


def test_no_platform_is_ours() -> None:
    assert parse_platform("") == OURS
    assert not parse_platform("").given


@pytest.mark.parametrize("text", ["beos/amd64", "linux/pdp11", "nonsense"])
def test_unknown_platforms(text: str) -> None:
    with pytest.raises(InvalidParameter, match="unknown operating system or architecture: invalid argument"):
        parse_platform(text)


def test_what_is_left_out_is_ours() -> None:
    assert platform_of(None, None) == platform_of("", "") == OURS
    assert platform_of(None, "arm64") == Platform("linux", "arm64")
    assert parse_platform("linux/amd64").fits(platform_of("linux", None))
    assert not parse_platform("linux/arm64").fits(OURS)
