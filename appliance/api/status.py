"""The map from errors to HTTP statuses. No route has another one."""

from appliance import errors

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.NotModified, 304),
    (errors.InvalidParameter, 400),
    (errors.ProtocolError, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.Unsupported, 501),
    (errors.NotInSwarm, 503),
    (errors.RemoteFailed, 500),
    (errors.Unavailable, 503),
    (errors.VchError, 500),
)


def status_of(error: Exception) -> int:
    """The status of an error; 500 for an error that is not a VchError."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
