"""What lies in BuildKit's cache: the answer of Control/DiskUsage, as plain values."""

import msgspec
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2

DISK_USAGE = "/moby.buildkit.v1.Control/DiskUsage"
MOST_RECORDS = 10_000
_MOST_TEXT = 1024
_MOST_PARENTS = 64


class CacheRecord(msgspec.Struct, frozen=True):
    """One record of the cache. `created` and `last_used` are unix ns, 0 for never; `size` is in bytes.

    `type` is BuildKit's, such as regular or exec.cachemount.
    """

    id: str
    type: str
    description: str
    size: int
    created: int
    last_used: int
    usage_count: int
    in_use: bool
    shared: bool
    mutable: bool
    parents: tuple[str, ...] = ()


def parse_usage_untrusted(raw: bytes) -> list[CacheRecord]:
    """The largest records of an answer, at most MOST_RECORDS, with texts cut at 1 KiB. ProtocolError.

    An answer of 16 MiB takes long: use a thread.
    """
    try:
        answer = control_pb2.UsageAnswer.FromString(raw)
    except DecodeError as error:
        raise ProtocolError(f"malformed answer of BuildKit to a request for its disk usage: {error}") from error
    largest = sorted(answer.records, key=lambda record: record.size, reverse=True)[:MOST_RECORDS]
    return [parse_record(record) for record in largest]


def parse_record(record: control_pb2.UsageRecord) -> CacheRecord:
    """One record as plain values."""
    return CacheRecord(
        record.id[:_MOST_TEXT],
        record.record_type[:_MOST_TEXT],
        record.description[:_MOST_TEXT],
        max(0, record.size),
        _nanoseconds(record, "created_at"),
        _nanoseconds(record, "last_used_at"),
        max(0, record.usage_count),
        record.in_use,
        record.shared,
        record.mutable,
        tuple(parent[:_MOST_TEXT] for parent in record.parents[:_MOST_PARENTS]),
    )


def _nanoseconds(record: control_pb2.UsageRecord, name: str) -> int:
    if not record.HasField(name):
        return 0
    at: Timestamp = getattr(record, name)
    # Not `ToNanoseconds`, which raises an error for a year that no calendar has.
    return max(0, at.seconds * 1_000_000_000 + at.nanos)
