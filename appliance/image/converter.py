"""The program that converts layers: `python -m appliance.image.converter`, a child process of vchd (see conversion.py).

Standard input and output carry frames: a length (4 bytes, little endian), and as many bytes. vchd sends a Job, the converter answers with
an empty frame; vchd sends the blob in frames, and an empty frame at its end, unless the blob is part of a file; the converter answers
with a Reply. After a failure it ends, else it waits for the next Job until its input ends.
"""

import struct
import sys
from pathlib import Path
from typing import IO

import msgspec

from appliance.errors import ProtocolError
from appliance.image.confined import confine, limit_cpu_time
from appliance.image.erofs import Limits, QuotaExceeded
from appliance.image.layer import FilePart, Layer, convert_untrusted

MAX_MEMORY = 2 << 30
"""Bytes of address space of a converter. A layer with a million files takes about half of it."""
MAX_CPU_SECONDS = 1800
"""CPU time of one layer. 100 MB take 0.3 s, and three times as long if they are compressed."""
LENGTH = struct.Struct("<I")
_KEPT_MEMORY = 256 << 20  # a converter that needed more memory does not wait for another layer


class Job(msgspec.Struct):
    """`disk` and `recipe` are the paths of the files to write. `blob` is a blob in a file, None for a blob that comes in frames."""

    disk: str
    recipe: str
    limits: Limits
    blob: FilePart | None = None


class Reply(msgspec.Struct):
    """A layer, or an error: `text` of a ProtocolError, `errno` of an OSError, or `exceeded`, the content of a QuotaExceeded."""

    layer: Layer | None = None
    text: str = ""
    errno: int = 0
    exceeded: int = 0


def read_frame(stream: IO[bytes]) -> bytes | None:
    """The next frame. None at the end of the stream, also in the middle of a frame."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    data = stream.read(size)
    return data if len(data) == size else None


def write_frame(stream: IO[bytes], data: bytes) -> None:
    """Write a frame to an unbuffered or buffered stream."""
    for part in (LENGTH.pack(len(data)), data):
        view = memoryview(part)
        while view:
            view = view[stream.write(view) :]
    stream.flush()


def _convert(job: Job, stdin: IO[bytes]) -> Reply:
    def source() -> bytes:
        data = read_frame(stdin)
        if data is None:
            raise EOFError  # vchd gave up, or is gone
        return data

    try:
        return Reply(convert_untrusted(job.blob or source, Path(job.disk), Path(job.recipe), job.limits))
    except ProtocolError as error:
        return Reply(text=str(error))
    except QuotaExceeded as error:
        return Reply(exceeded=error.content)
    except OSError as error:
        return Reply(errno=error.errno or 0)
    except MemoryError:
        return Reply(text=f"the layer needs more than {MAX_MEMORY >> 30} GiB of memory to be converted")


def _peak_memory() -> int:
    """Bytes. (getrusage would count the memory of vchd, which this process shared until its exec.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")), 0)


def main() -> None:
    confine(MAX_MEMORY)
    stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
    while (data := read_frame(stdin)) is not None:
        job = msgspec.json.decode(data, type=Job)
        limit_cpu_time(MAX_CPU_SECONDS)
        write_frame(stdout, b"")
        try:
            reply = _convert(job, stdin)
        except EOFError:
            return
        write_frame(stdout, msgspec.json.encode(reply))
        if reply.layer is None or _peak_memory() > _KEPT_MEMORY:
            return


if __name__ == "__main__":
    main()
