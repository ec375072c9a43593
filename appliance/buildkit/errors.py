"""A failed call of buildkitd."""

from appliance.errors import VchError
from tether.rpc.status import Code


class BuildkitError(VchError):
    """`text` is the server's. `details` is the trailer `grpc-status-details-bin`, a serialized google.rpc.Status; b"" without it."""

    def __init__(self, code: Code, text: str, details: bytes = b"") -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.details = details
