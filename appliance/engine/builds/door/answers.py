"""Answers of the door in the form of the OCI distribution specification."""

import re

from appliance.errors import Conflict, Forbidden, InvalidParameter, NotFound, ProtocolError, Unavailable, VchError
from appliance.http import Reply

# 403, and not 5xx, for a full disk and a quota: BuildKit would repeat the whole upload (util/resolver/retryhandler).
_STATUSES: list[tuple[type[VchError], int, str]] = [
    (NotFound, 404, "NAME_UNKNOWN"),
    (Forbidden, 403, "DENIED"),
    (Conflict, 416, "BLOB_UPLOAD_INVALID"),
    (InvalidParameter, 400, "BLOB_UPLOAD_INVALID"),
    (ProtocolError, 400, "BLOB_UPLOAD_INVALID"),
    (Unavailable, 403, "DENIED"),
]
_RANGE = re.compile(r"bytes=([0-9]{1,18})-([0-9]{0,18})")


async def answer_error(reply: Reply, error: VchError) -> None:
    """Answer with the status of an error."""
    status, code = next(
        ((status, code) for kind, status, code in _STATUSES if isinstance(error, kind)), (500, "UNKNOWN")
    )
    await reply.json(status, {"errors": [{"code": code, "message": str(error)}]})


def content_digest(digest: str) -> bytes:
    """The header line that names the content of an answer."""
    return b"Docker-Content-Digest: %s\r\n" % digest.encode()


def range_of(header: str, size: int) -> tuple[int, int] | None:
    """First byte and end of the range that a `Range` header asks for; None for the whole content (RFC 9110 14.2).

    A range of another form than FIRST-LAST or FIRST- is ignored, as the RFC allows. Conflict (416) for a range behind the end.
    """
    match = _RANGE.fullmatch(header)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        return None
    first = int(match[1])
    if first >= size:
        raise Conflict(f"the range {header} is behind the end of {size} bytes")
    return first, min(int(match[2]) + 1, size) if match[2] else size
