"""The frame on the line, and finding frames between garbage.

A frame is a 56 byte header, big endian, and up to `MAX_PAYLOAD` bytes:

    magic 4 | kind 1 | flags 1 | zero 2 | source 8 | destination 8 | offset 8 | ack 8 | window 4 | length 4 |
    payload CRC-32 4 | header CRC-32 4

`source` and `destination` are the random session ids of the two ends (destination 0: not known yet), `offset` counts the
payload bytes of the session before this frame, `ack` those received, `window` how many more may come. CRC-32 is IEEE 802.3's.
"""

import enum
import struct
import zlib
from dataclasses import dataclass

MAGIC = b"VCH\x01"
MAX_PAYLOAD = 65536
_HEADER = struct.Struct(">4sBBHQQQQIIII")
HEADER_SIZE = _HEADER.size
_BODY = HEADER_SIZE - 4

# A frame that stays incomplete is given up: its tail was lost. Base plus what the slowest line (a 16550) takes.
_PATIENCE = 0.5
_SLOWEST_LINE = 50_000.0


class Kind(enum.IntEnum):
    HELLO = 1
    ACK = 2
    DATA = 3


# ACK flag: something is missing from `ack` on, send it again now.
FLAG_GAP = 1


@dataclass(frozen=True, slots=True)
class Frame:
    kind: Kind
    source: int
    destination: int
    offset: int = 0
    ack: int = 0
    window: int = 0
    flags: int = 0
    payload: bytes = b""

    def encode(self) -> bytes:
        body = _HEADER.pack(
            MAGIC,
            self.kind,
            self.flags,
            0,
            self.source,
            self.destination,
            self.offset,
            self.ack,
            self.window,
            len(self.payload),
            zlib.crc32(self.payload),
            0,
        )[:_BODY]
        return b"".join((body, zlib.crc32(body).to_bytes(4, "big"), self.payload))


class FrameReader:
    """Bytes in, frames out. Whatever is no frame is skipped and counted in `skipped` (bytes).

    Each byte is checked at most once, whatever a hostile peer writes: a header or payload with a wrong CRC is skipped whole.
    That may skip the beginning of a sound frame after lost bytes. The link retransmits that frame anyway, since it comes after
    a gap.
    """

    def __init__(self) -> None:
        self.skipped = 0
        self._buffer = bytearray()
        self._give_up: float | None = None

    def next_deadline(self) -> float | None:
        return self._give_up

    def receive_untrusted(self, data: bytes | bytearray | memoryview, now: float) -> list[Frame]:
        """Return the frames that are complete now. Never raises, keeps at most one frame's bytes."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        position = 0
        while True:
            found = buffer.find(MAGIC, position)
            if found < 0:
                # A magic may have begun in the last three bytes.
                end = max(position, len(buffer) - len(MAGIC) + 1)
                self.skipped += end - position
                position = end
                self._give_up = None
                break
            self.skipped += found - position
            position = found
            if len(buffer) - position < HEADER_SIZE:
                self._wait(0, now)
                if self._expired(now):
                    position = self._skip(position)
                    continue
                break
            (_, kind, flags, _, source, destination, offset, ack, window, length, payload_crc, header_crc) = (
                _HEADER.unpack_from(buffer, position)
            )
            with memoryview(buffer) as view:
                sound = zlib.crc32(view[position : position + _BODY]) == header_crc
            if not sound or length > MAX_PAYLOAD or kind not in _KINDS:
                position = self._skip(position, HEADER_SIZE)
                continue
            start = position + HEADER_SIZE
            if len(buffer) - start < length:
                self._wait(length, now)
                if self._expired(now):
                    position = self._skip(position)
                    continue
                break
            payload = bytes(memoryview(buffer)[start : start + length]) if length else b""
            if zlib.crc32(payload) != payload_crc:
                position = self._skip(position, HEADER_SIZE + length)
                continue
            self._give_up = None
            frames.append(Frame(_KINDS[kind], source, destination, offset, ack, window, flags, payload))
            position = start + length
        del buffer[:position]
        return frames

    def _wait(self, length: int, now: float) -> None:
        if self._give_up is None:
            self._give_up = now + _PATIENCE + length / _SLOWEST_LINE

    def _expired(self, now: float) -> bool:
        return self._give_up is not None and now >= self._give_up

    def _skip(self, position: int, size: int = len(MAGIC)) -> int:
        self._give_up = None
        self.skipped += size
        return position + size


_KINDS = {int(kind): kind for kind in Kind}
