"""Docker's multiplexed stream: [stream, 0, 0, 0, length u32 BE] before each chunk (moby pkg/stdcopy)."""

import struct

STDIN, STDOUT, STDERR, SYSTEM_ERROR = range(4)
_HEADER = struct.Struct(">BxxxI")
HEADER_SIZE = _HEADER.size


def header(stream: int, size: int) -> bytes:
    return _HEADER.pack(stream, size)


def frame(stream: int, data: bytes) -> bytes:
    return _HEADER.pack(stream, len(data)) + data
