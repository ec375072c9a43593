"""Failures of calls to a guest, by meaning."""

import pytest

from appliance.errors import Conflict, InvalidParameter, NotFound, Unavailable, VchError
from appliance.guest import FailureKind, GuestFailure, StartFailure, StartRefused
from appliance.guest.failures import translate
from tether.rpc.status import Code, RpcError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.NOT_FOUND, NotFound),
        (Code.FAILED_PRECONDITION, Conflict),
        (Code.INVALID_ARGUMENT, InvalidParameter),
    ],
)
def test_the_guests_text_is_the_clients(code: Code, kind: type[VchError]) -> None:
    error = translate(RpcError(code, "the guest's words"))
    assert type(error) is kind
    assert str(error) == "the guest's words"


@pytest.mark.parametrize(
    "code", [Code.UNAVAILABLE, Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.UNKNOWN]
)
def test_other_failures_keep_their_code(code: Code) -> None:
    error = translate(RpcError(code, "the guest's words"))
    assert isinstance(error, GuestFailure)
    assert isinstance(error, Unavailable)
    assert error.code is code
    assert str(error) == f"guest: {code.name}: the guest's words"


def test_a_refused_start_says_why() -> None:
    failure = StartFailure(FailureKind.NOT_FOUND, 2, "foo", searched_path=True)
    error = StartRefused(failure, "no foo")
    assert (error.failure, str(error)) == (failure, "no foo")
