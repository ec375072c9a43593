"""HTTP/1.1 on trio with hijack (RFC 9112). Knows no Docker."""

from appliance.http.connection import Disconnected, Handler, Reply, Request, serve_connection
from appliance.http.readiness import Readiness
from appliance.http.stream import HijackedStream
from appliance.http.tls import Peer, TlsFront
from appliance.http.websocket import WebSocketStream

__all__ = [
    "Disconnected",
    "Handler",
    "HijackedStream",
    "Peer",
    "Readiness",
    "Reply",
    "Request",
    "TlsFront",
    "WebSocketStream",
    "serve_connection",
]
