"""The converter's frames."""

import io

import pytest

from appliance.image.converter import read_frame, write_frame


def test_frames_come_back() -> None:
    stream = io.BytesIO()
    for data in (b"one", b"", b"x" * 70_000):
        write_frame(stream, data)
    stream.seek(0)
    assert [read_frame(stream) for _ in range(4)] == [b"one", b"", b"x" * 70_000, None]


@pytest.mark.parametrize("data", [b"", b"\1\0", b"\5\0\0\0abc"])
def test_a_frame_that_is_cut_off_is_the_end(data: bytes) -> None:
    assert read_frame(io.BytesIO(data)) is None
