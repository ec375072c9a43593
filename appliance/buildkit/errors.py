"""A failed call of BuildKit, and what other errors are in gRPC's terms."""

from appliance.errors import (
    Conflict,
    Forbidden,
    InvalidParameter,
    NotFound,
    NotModified,
    ProtocolError,
    Unauthorized,
    Unavailable,
    Unsupported,
    VchError,
)
from tether.rpc.status import Code


class BuildkitError(VchError):
    """`text` is the server's. `details` is the trailer `grpc-status-details-bin`, a serialized google.rpc.Status; b"" without it."""

    def __init__(self, code: Code, text: str, details: bytes = b"") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.details = details


_CODES: dict[type[VchError], Code] = {
    NotFound: Code.NOT_FOUND,
    Conflict: Code.FAILED_PRECONDITION,
    NotModified: Code.FAILED_PRECONDITION,
    InvalidParameter: Code.INVALID_ARGUMENT,
    Unauthorized: Code.UNAUTHENTICATED,
    Forbidden: Code.PERMISSION_DENIED,
    Unavailable: Code.UNAVAILABLE,
    Unsupported: Code.UNIMPLEMENTED,
    ProtocolError: Code.INTERNAL,
}


def as_buildkit_error(error: VchError) -> BuildkitError:
    """What a build client receives for an error of the engine."""
    if isinstance(error, BuildkitError):
        return error
    code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), Code.UNKNOWN)
    return BuildkitError(code, str(error))
