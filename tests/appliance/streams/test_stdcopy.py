"""Docker's multiplexed stream."""

from appliance.streams import stdcopy


def test_a_frame_is_a_header_and_the_data() -> None:
    assert stdcopy.frame(stdcopy.STDOUT, b"hello") == b"\1\0\0\0\0\0\0\5hello"
    assert stdcopy.frame(stdcopy.STDERR, b"") == stdcopy.header(stdcopy.STDERR, 0) == b"\2" + bytes(7)
    assert stdcopy.header(stdcopy.SYSTEM_ERROR, 1 << 24) == b"\3\0\0\0\1\0\0\0"
    assert stdcopy.HEADER_SIZE == 8
