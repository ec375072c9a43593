"""A client's session: the bytes of its connection are the messages of a call of Control/Session.

Client and server swap roles on that connection: BuildKit calls services of the client in it (its files, secrets, credentials).
"""

import asyncio
import re
import urllib.parse
from collections.abc import Iterable

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from appliance.buildkit.channel import BuildkitChannel, RawCall
from appliance.buildkit.forward import CONTROL
from appliance.buildkit.grpc_connection import Reader, Writer
from appliance.buildkit.metadata import clean_metadata_untrusted
from protos.buildkit.v1.control_pb2 import Bytes

_EXPOSED = "x-docker-expose-session-"
# Each method is a value of its own. The HTTP server joins the values of headers that occur several times.
_METHODS = f"{_EXPOSED}grpc-method"
# buildx makes the key of the name of the context's folder.
_SHARED_KEY = f"{_EXPOSED}sharedkey"
# Says that BuildKit has to decode the key (session/header.go of moby/buildkit).
_SHARED_KEY_ENCODED = f"{_SHARED_KEY}-encoded"
_ASCII = re.compile(rb"[ -~]*")
# One piece is one message. A message costs the same for 64 KiB and for 1 MiB.
PIECE = 1 << 20


def session_metadata(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The headers of a request of /session that are metadata of Control/Session, in which a name may occur several times.

    `headers` are decoded as Latin-1. gRPC's metadata is ASCII, so other values are encoded as in a URL; BuildKit decodes the shared key.
    BuildkitError when a name is malformed.
    """
    exposed: list[tuple[bytes, bytes]] = []
    for name, value in headers:
        lower = name.lower()
        if not lower.startswith(_EXPOSED):
            continue
        for one in value.split(",") if lower == _METHODS else [value]:
            raw = one.strip().encode("latin-1", "replace")
            if not _ASCII.fullmatch(raw):
                raw = urllib.parse.quote_plus(raw).encode()
                if lower == _SHARED_KEY:
                    exposed.append((_SHARED_KEY_ENCODED.encode(), b"1"))
            exposed.append((lower.encode("latin-1", "replace"), raw))
    clean = clean_metadata_untrusted(exposed)
    return [(name, value) for name, value in clean if isinstance(value, str)]


async def bridge(
    reader: Reader, writer: Writer, early: bytes, metadata: list[tuple[str, str]], channel: BuildkitChannel
) -> None:
    """Carry a session until either end closes; then the connection is closed. `early`: bytes that have come already."""
    call = channel.start(CONTROL + "Session", metadata)
    sending = asyncio.create_task(_from_client(reader, early, call))
    try:
        while (message := await call.read()) is not grpc.aio.EOF:
            writer.write(Bytes.FromString(message).data)
            await writer.drain()
    except (grpc.aio.AioRpcError, DecodeError, OSError):
        # The client sees the end of its connection. Builds of the session fail, and say why.
        pass
    except asyncio.CancelledError:
        # Of this task, or of the call, when the client has left.
        if not sending.done():
            raise
    finally:
        call.cancel()
        sending.cancel()
        try:
            await asyncio.wait([sending])
        finally:
            writer.close()


async def _from_client(reader: Reader, early: bytes, call: RawCall) -> None:
    try:
        for start in range(0, len(early), PIECE):
            await call.write(Bytes(data=early[start : start + PIECE]).SerializeToString())
        while data := await reader.read(PIECE):
            await call.write(Bytes(data=data).SerializeToString())
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, OSError):
        pass
    call.cancel()
