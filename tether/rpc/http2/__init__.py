"""The server end of HTTP/2 (RFC 9113), sans-io: bytes go in, events and bytes come out.

It does what gRPC needs: no push, and priorities are checked but have no effect. `frames` cuts bytes into frames, `headers`
decodes and checks header blocks, `streams` is the table of open streams, `sending` queues what goes out within the peer's
windows, `connection` joins them.
"""

from tether.rpc.http2.connection import Limits, ServerConnection
from tether.rpc.http2.events import Closed, DataReceived, Event, RequestReceived, StreamReset, Writable
from tether.rpc.http2.frames import Code
from tether.rpc.http2.headers import Headers

__all__ = [
    "Closed",
    "Code",
    "DataReceived",
    "Event",
    "Headers",
    "Limits",
    "RequestReceived",
    "ServerConnection",
    "StreamReset",
    "Writable",
]
