"""The map from errors to statuses."""

import pytest

from appliance import errors
from appliance.api.status import status_of


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.NotFound(), 404),
        (errors.Conflict(), 409),
        (errors.NotModified(), 304),
        (errors.InvalidParameter(), 400),
        (errors.ProtocolError(), 400),
        (errors.Unauthorized(), 401),
        (errors.Forbidden(), 403),
        (errors.Unsupported(), 501),
        (errors.NotInSwarm(), 503),
        (errors.Unavailable(), 503),
        (errors.RemoteFailed(), 500),
        (errors.HypervisorError(), 500),
        (errors.VchError(), 500),
        (ValueError(), 500),
    ],
)
def test_statuses(error: Exception, status: int) -> None:
    assert status_of(error) == status
