"""gRPC status codes and the error that carries one, with details."""

import enum
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from protos.tether.v1 import status_pb2

M = TypeVar("M", bound=Message)

_PREFIX = "type.googleapis.com/"
# PATH_MAX. A path that is longer does not exist.
_LONGEST_TEXT = 4096


class Code(enum.IntEnum):
    """google.rpc.Code."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


def _shortened(message: Message) -> Message:
    """The message, or a copy without the rest of texts that no trailer can hold."""
    long = [
        field.name for field, value in message.ListFields() if isinstance(value, str) and len(value) > _LONGEST_TEXT
    ]
    if not long:
        return message
    copy = type(message)()
    copy.CopyFrom(message)
    for name in long:
        setattr(copy, name, getattr(copy, name)[:_LONGEST_TEXT])
    return copy


class RpcError(Exception):
    """A call that failed: raised by handlers in the guest, and by calls on the appliance."""

    def __init__(self, code: Code, message: str, *details: Message) -> None:
        super().__init__(f"{code.name}: {message}")
        self.code = code
        self.message = message
        self._details = [(message.DESCRIPTOR.full_name, _shortened(message).SerializeToString()) for message in details]

    def detail(self, kind: type[M]) -> M | None:
        """Return the first detail of that type, None when there is none (or it does not parse)."""
        for name, value in self._details:
            if name == kind.DESCRIPTOR.full_name:
                try:
                    return kind.FromString(value)
                except DecodeError:
                    return None
        return None

    @classmethod
    def decode_untrusted(cls, code: int, message: str, details: bytes) -> "RpcError":
        """Build the error from the trailers of a failed call."""
        error = cls(Code(code) if code in Code._value2member_map_ else Code.UNKNOWN, message)
        try:
            status = status_pb2.Status.FromString(details)
        except DecodeError:
            return error
        error._details = [(detail.type_url.removeprefix(_PREFIX), detail.value) for detail in status.details]
        return error

    def encode_details(self) -> bytes:
        """The value of the trailer `grpc-status-details-bin` (before base64), b"" without details."""
        if not self._details:
            return b""
        details = [status_pb2.Detail(type_url=_PREFIX + name, value=value) for name, value in self._details]
        # Without the text, which is a trailer of its own.
        return status_pb2.Status(code=self.code, details=details).SerializeToString()
