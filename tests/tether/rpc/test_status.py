"""gRPC statuses and their details, as they cross in trailers."""

import pytest

from protos.tether.v1.process_pb2 import ExitStatus, StartFailure
from tether.rpc.status import Code, RpcError


def _across(error: RpcError) -> RpcError:
    return RpcError.decode_untrusted(int(error.code), error.message, error.encode_details())


def test_details_cross() -> None:
    failure = StartFailure(kind=StartFailure.NOT_FOUND, errno=2, subject="/bin/x", searched_path=True)
    received = _across(RpcError(Code.FAILED_PRECONDITION, "exec /bin/x", failure))
    assert (received.code, received.message) == (Code.FAILED_PRECONDITION, "exec /bin/x")
    assert received.detail(StartFailure) == failure
    assert received.detail(ExitStatus) is None


def test_without_details_nothing_is_sent() -> None:
    error = RpcError(Code.NOT_FOUND, "gone")
    assert error.encode_details() == b""
    assert _across(error).detail(StartFailure) is None
    assert str(error) == "NOT_FOUND: gone"


@pytest.mark.parametrize("details", [b"\xff\xff", b"\x08", bytes(100)])
def test_details_that_do_not_parse_are_ignored(details: bytes) -> None:
    error = RpcError.decode_untrusted(5, "gone", details)
    assert (error.code, error.message, error.detail(StartFailure)) == (Code.NOT_FOUND, "gone", None)


def test_a_detail_of_the_right_name_that_does_not_parse() -> None:
    error = RpcError(Code.INTERNAL, "x", StartFailure())
    error._details = [("tether.v1.StartFailure", b"\xff")]
    assert _across(error).detail(StartFailure) is None


def test_an_unknown_code() -> None:
    assert RpcError.decode_untrusted(99, "odd", b"").code is Code.UNKNOWN
