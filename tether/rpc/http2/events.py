"""What a connection reports to its user."""

from dataclasses import dataclass

from tether.rpc.http2.frames import Code
from tether.rpc.http2.headers import Headers


@dataclass(frozen=True, slots=True)
class RequestReceived:
    stream: int
    headers: Headers
    ended: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    """`size` includes padding: the user passes it to `acknowledge` after it has taken the data."""

    stream: int
    data: bytes
    size: int
    ended: bool


@dataclass(frozen=True, slots=True)
class StreamReset:
    stream: int
    code: int


@dataclass(frozen=True, slots=True)
class Writable:
    """The stream's outgoing data has left: there is room again."""

    stream: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is over, after what `data_to_send` still holds."""

    code: Code
    text: str


Event = RequestReceived | DataReceived | StreamReset | Writable | Closed
