"""Errors of the engine, as build clients see them."""

import pytest

from appliance.buildkit.errors import BuildkitError, as_buildkit_error
from appliance.errors import (
    Conflict,
    Forbidden,
    HypervisorError,
    InvalidParameter,
    NotFound,
    RemoteFailed,
    Unavailable,
    Unsupported,
    VchError,
)
from tether.rpc.status import Code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NotFound("x"), Code.NOT_FOUND),
        (Conflict("x"), Code.FAILED_PRECONDITION),
        (InvalidParameter("x"), Code.INVALID_ARGUMENT),
        (Forbidden("x"), Code.PERMISSION_DENIED),
        (Unavailable("x"), Code.UNAVAILABLE),
        (RemoteFailed("x"), Code.UNAVAILABLE),
        (Unsupported("x"), Code.UNIMPLEMENTED),
        (HypervisorError("x"), Code.UNKNOWN),
    ],
)
def test_codes(error: VchError, code: Code) -> None:
    answer = as_buildkit_error(error)
    assert (answer.code, answer.text) == (code, "x")


def test_an_error_of_buildkit_passes() -> None:
    error = BuildkitError(Code.ABORTED, "x", b"details")
    assert as_buildkit_error(error) is error
