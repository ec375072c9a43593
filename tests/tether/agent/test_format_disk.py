"""Only a blank disk receives a file system."""

from pathlib import Path

import pytest

from tests.tether.isolated import run_isolated
from tether.agent.format_disk import format_if_blank, is_blank
from tether.agent.reaper import Reaper

_BEYOND_HEAD = bytes(2048)


@pytest.mark.parametrize(
    ("content", "blank"),
    [
        (b"", True),
        (bytes(4096), True),
        (_BEYOND_HEAD + b"x", True),
        (b"x" + _BEYOND_HEAD, False),
        (bytes(1080) + b"\x53\xef" + bytes(2000), False),
    ],
)
def test_blank(tmp_path: Path, content: bytes, blank: bool) -> None:
    (tmp_path / "disk").write_bytes(content)
    assert is_blank(str(tmp_path / "disk")) == blank


def _leave(path: str) -> None:
    import trio

    # Without a running reaper a child would never end.
    trio.run(format_if_blank, Reaper(), path, [])


def test_a_disk_with_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"content")
    run_isolated(_leave, str(tmp_path / "disk"))
    assert (tmp_path / "disk").read_bytes() == b"content"
