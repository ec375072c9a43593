"""Metadata between HTTP/2 headers and grpcio."""

import urllib.parse

import pytest

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.metadata import clean_metadata_untrusted, encode_metadata, encode_text, parse_timeout_untrusted
from tether.rpc.status import Code


def test_what_belongs_to_a_connection_is_left_out() -> None:
    headers = [
        (b":method", b"POST"),
        (b":authority", b"localhost"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"grpc-go"),
        (b"grpc-timeout", b"1S"),
        (b"grpc-accept-encoding", b"gzip"),
        (b"grpc-trace-bin", b"AAE"),
        (b"buildkit-controlapi-buildid", b"x"),
        (b"twice", b"1"),
        (b"twice", b"2"),
        (b"joined-bin", b"AA==,AQ"),
    ]
    assert clean_metadata_untrusted(headers) == [
        ("grpc-trace-bin", b"\x00\x01"),
        ("buildkit-controlapi-buildid", "x"),
        ("twice", "1"),
        ("twice", "2"),
        ("joined-bin", b"\x00"),
        ("joined-bin", b"\x01"),
    ]


@pytest.mark.parametrize(
    "header", [(b"na me", b"x"), (b"name", b"\xff"), (b"name", b"a\nb"), (b"name-bin", b"?"), (b"name-bin", b"A")]
)
def test_malformed_metadata_is_refused(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(BuildkitError) as caught:
        clean_metadata_untrusted([header])
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_answers_are_encoded() -> None:
    metadata: list[tuple[str, str | bytes]] = [
        ("a", "b"),
        ("x-bin", b"\x00\x01"),
        ("grpc-status-details-bin", b"d"),
        ("content-type", "x"),
        ("grpc-x", "y"),
    ]
    assert encode_metadata(metadata) == [(b"a", b"b"), (b"x-bin", b"AAE"), (b"grpc-status-details-bin", b"ZA")]


@pytest.mark.parametrize(
    ("value", "seconds"), [(b"2H", 7200), (b"1M", 60), (b"5S", 5), (b"50m", 0.05), (b"7u", 7e-6), (b"9n", 9e-9)]
)
def test_timeouts(value: bytes, seconds: float) -> None:
    assert parse_timeout_untrusted([(b"grpc-timeout", value)]) == pytest.approx(seconds)
    assert parse_timeout_untrusted([(b"other", value)]) is None


@pytest.mark.parametrize("value", [b"", b"1", b"S", b"-1S", b"123456789S", b"1.5S", b"\xff"])
def test_malformed_timeouts(value: bytes) -> None:
    with pytest.raises(BuildkitError):
        parse_timeout_untrusted([(b"grpc-timeout", value)])


def test_texts_are_percent_encoded_and_bounded() -> None:
    assert encode_text("50% of \u00fc\n") == b"50%25 of %C3%BC%0A"
    assert len(urllib.parse.unquote(encode_text("\u20ac" * 100_000).decode()).encode()) <= 64 << 10
