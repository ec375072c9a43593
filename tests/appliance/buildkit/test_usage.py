"""What BuildKit says of its cache: bounds, and values that no clock has."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from appliance.buildkit.usage import MOST_RECORDS, CacheRecord, parse_usage_untrusted
from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2


def _answer(*records: control_pb2.UsageRecord) -> bytes:
    return control_pb2.UsageAnswer(records=records).SerializeToString()


def test_records() -> None:
    full = control_pb2.UsageRecord(
        id="two",
        mutable=True,
        in_use=True,
        size=9,
        created_at=Timestamp(seconds=5, nanos=7),
        last_used_at=Timestamp(seconds=6),
        usage_count=3,
        description="mount / from exec",
        record_type="exec.cachemount",
        shared=True,
        parents=["one"],
    )
    assert parse_usage_untrusted(_answer(control_pb2.UsageRecord(id="one", size=3), full)) == [
        CacheRecord(
            "two",
            "exec.cachemount",
            "mount / from exec",
            9,
            5_000_000_007,
            6_000_000_000,
            3,
            True,
            True,
            True,
            ("one",),
        ),
        CacheRecord("one", "", "", 3, 0, 0, 0, False, False, False),
    ]


def test_an_answer_is_bounded() -> None:
    many = [control_pb2.UsageRecord(id=str(number), size=number) for number in range(MOST_RECORDS + 5)]
    found = parse_usage_untrusted(_answer(*many))
    assert len(found) == MOST_RECORDS
    assert min(record.size for record in found) == 5
    long = control_pb2.UsageRecord(
        id="i" * 5000,
        description="d" * 5000,
        size=-1,
        parents=["p" * 5000] * 100,
        created_at=Timestamp(seconds=-(1 << 60)),
        last_used_at=Timestamp(seconds=1 << 62),
    )
    (record,) = parse_usage_untrusted(_answer(long))
    assert (len(record.id), len(record.description), record.size, record.created) == (1024, 1024, 0, 0)
    assert [len(parent) for parent in record.parents] == [1024] * 64


def test_a_malformed_answer() -> None:
    with pytest.raises(ProtocolError, match="malformed"):
        parse_usage_untrusted(b"\x0a\xff")
