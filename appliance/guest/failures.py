"""Failures of a guest's calls, by meaning."""

from appliance.errors import Conflict, InvalidParameter, NotFound, Unavailable, VchError
from appliance.guest.reports import StartFailure
from tether.rpc.status import Code, RpcError


class GuestFailure(Unavailable):
    """A call to the guest failed; `code` is gRPC's."""

    def __init__(self, text: str, code: Code) -> None:
        super().__init__(text)
        self.code = code


class StartRefused(VchError):
    """A process could not be started; `failure` says why."""

    def __init__(self, failure: StartFailure, text: str) -> None:
        super().__init__(text)
        self.failure = failure


def translate(error: RpcError) -> VchError:
    """The error of `errors.py` with the same meaning."""
    if error.code is Code.NOT_FOUND:
        return NotFound(error.message)
    if error.code is Code.FAILED_PRECONDITION:
        return Conflict(error.message)
    if error.code is Code.INVALID_ARGUMENT:
        return InvalidParameter(error.message)
    if error.code is Code.ABORTED:
        # The guest has the whole text that clients see.
        return VchError(error.message)
    return GuestFailure(f"guest: {error}", error.code)
