"""Errors as the distribution specification wants them; ranges."""

import pytest

from appliance.engine.builds.door.answers import answer_error, content_digest, range_of
from appliance.errors import Conflict, Forbidden, InvalidParameter, NotFound, ProtocolError, Unavailable, VchError
from appliance.http import Reply, Request
from tests.appliance.engine.builds.door.wire import DoorClient
from tests.appliance.http.wire import served


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotFound("x"), 404, "NAME_UNKNOWN"),
        (Forbidden("x"), 403, "DENIED"),
        (Conflict("x"), 416, "BLOB_UPLOAD_INVALID"),
        (InvalidParameter("x"), 400, "BLOB_UPLOAD_INVALID"),
        (ProtocolError("x"), 400, "BLOB_UPLOAD_INVALID"),
        (Unavailable("x"), 403, "DENIED"),
        (VchError("x"), 500, "UNKNOWN"),
    ],
)
async def test_an_error_has_a_status_and_a_code(error: VchError, status: int, code: str) -> None:
    async def fail(_: Request, reply: Reply) -> None:
        await answer_error(reply, error)

    async with served(fail) as client:
        answer = await DoorClient(client).ask("GET", "/")
    assert answer.status == status
    assert answer.body == b'{"errors":[{"code":"%s","message":"x"}]}\n' % code.encode()


def test_the_digest_of_an_answer() -> None:
    assert content_digest("sha256:0") == b"Docker-Content-Digest: sha256:0\r\n"


def test_ranges() -> None:
    assert range_of("bytes=0-", 10) == (0, 10)
    assert range_of("bytes=3-5", 10) == (3, 6)
    assert range_of("bytes=3-99", 10) == (3, 10)
    for ignored in ("", "bytes=-3", "bytes=5-3", "bytes=1-2,3-4"):
        assert range_of(ignored, 10) is None
    for size in (10, 0):
        with pytest.raises(Conflict):
            range_of("bytes=10-", size)
