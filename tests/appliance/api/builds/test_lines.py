"""The lines of an answer, and where an error goes."""

import pytest

from appliance.api.builds.lines import BuildAnswer
from appliance.container.build_lines import BuildFailed, BuildLine, BuildResult
from appliance.errors import InvalidParameter
from appliance.http import Reply, Request
from tests.appliance.http.wire import served

_ASK = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def _written(version: tuple[int, int], *lines: BuildLine, error: BuildFailed | None = None) -> list[bytes]:
    """The lines of an answer, out of its chunks."""

    async def serve(request: Request, reply: Reply) -> None:
        answer = BuildAnswer(reply, version)
        for line in lines:
            await answer.write(line)
        if error is not None:
            await answer.fail(error)

    async with served(serve) as client:
        await client.send(_ASK)
        received = await client.receive(1 << 20)
    return [line for line in received.split(b"\r\n") if line.startswith(b"{")]


async def test_lines() -> None:
    result = BuildResult("sha256:1")
    lines = (
        BuildLine("a\n"),
        BuildLine(aux=result),
        BuildLine(id="moby.image.id", aux=result),
        BuildLine(id="t", aux="x"),
    )
    assert await _written((1, 51), *lines) == [
        b'{"stream":"a\\n"}',
        b'{"aux":{"ID":"sha256:1"}}',
        b'{"id":"moby.image.id","aux":{"ID":"sha256:1"}}',
        b'{"id":"t","aux":"x"}',
    ]
    assert len(await _written((1, 29), *lines)) == 3


async def test_an_error_after_a_line_is_a_line() -> None:
    assert await _written((1, 51), BuildLine("a"), error=BuildFailed("bad", 7)) == [
        b'{"stream":"a"}',
        b'{"errorDetail":{"code":7,"message":"bad"},"error":"bad"}',
    ]
    assert (await _written((1, 51), BuildLine("a"), error=BuildFailed("bad")))[1] == (
        b'{"errorDetail":{"message":"bad"},"error":"bad"}'
    )


async def test_an_error_before_a_line_is_raised() -> None:
    async def serve(request: Request, reply: Reply) -> None:
        with pytest.raises(InvalidParameter, match="bad"):
            await BuildAnswer(reply, (1, 51)).fail(InvalidParameter("bad"))
        await reply.empty(200)

    async with served(serve) as client:
        await client.send(_ASK)
        assert b"200 OK" in await client.receive(1 << 20)
