"""HTTP/1.1 on trio with hijack (RFC 9112). Knows no Docker."""

from appliance.http.browsers import refuse_other_sites
from appliance.http.client_limits import ClientLimits
from appliance.http.connection import Disconnected
from appliance.http.dated_headers import DatedHeaders
from appliance.http.listener import accept_connections
from appliance.http.readiness import Readiness
from appliance.http.reply import Reply
from appliance.http.request import Request
from appliance.http.server import Handler, serve_connection
from appliance.http.stream import HijackedStream
from appliance.http.tls import Peer, TlsFront
from appliance.http.websocket import WebSocketStream

__all__ = [
    "ClientLimits",
    "DatedHeaders",
    "Disconnected",
    "Handler",
    "HijackedStream",
    "Peer",
    "Readiness",
    "Reply",
    "Request",
    "TlsFront",
    "WebSocketStream",
    "accept_connections",
    "refuse_other_sites",
    "serve_connection",
]
