"""Paths of Docker's API: normal, absolute, and with their links resolved or not."""

from pathlib import Path

import pytest

from tether.agent.container_path import ContainerPath


@pytest.mark.parametrize(
    ("text", "path", "follows", "name"),
    [
        ("/a/b", "/a/b", False, "b"),
        ("a//b/", "/a/b", True, "b"),
        ("/a/.", "/a", True, "."),
        ("/", "/", True, "/"),
        ("", "/", True, "/"),
        ("/../../x", "/x", False, "x"),
    ],
)
def test_paths(text: str, path: str, follows: bool, name: str) -> None:
    assert ContainerPath.of(text) == ContainerPath(path, follows, name)


def test_links_before_the_last_element_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/last").symlink_to("/elsewhere")
    (tmp_path / "link").symlink_to("dir")
    assert ContainerPath.of(f"{tmp_path}/link/last").resolve() == f"{tmp_path}/dir/last"
    assert ContainerPath.of(f"{tmp_path}/link/last/").resolve() == "/elsewhere"
    assert ContainerPath.of(f"{tmp_path}/link").resolve() == f"{tmp_path}/link"
    assert ContainerPath.of(f"{tmp_path}/link/.").resolve() == f"{tmp_path}/dir"
