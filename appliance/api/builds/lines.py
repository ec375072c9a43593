"""The answer of `POST /build`: lines of JSON, the last of which may be an error (moby router/build/build_routes.go postBuild)."""

import msgspec

from appliance.container.build_lines import BuildFailed, BuildLine, BuildResult
from appliance.errors import VchError
from appliance.http import Reply

_RESULTS_SINCE = (1, 30)


class ErrorDetail(msgspec.Struct, omit_defaults=True):
    """`code` is the exit code of the command that failed."""

    code: int = 0
    message: str = ""


class ErrorLine(msgspec.Struct, rename="camel"):
    """The last line of a build that has failed."""

    error_detail: ErrorDetail
    error: str


class BuildAnswer:
    """Writes lines. The head goes with the first line, so that an error before that is a status."""

    def __init__(self, reply: Reply, version: tuple[int, int]) -> None:
        self._reply = reply
        self._version = version

    async def write(self, line: BuildLine) -> None:
        """Send a line. Older clients of the classic builder know no results."""
        if isinstance(line.aux, BuildResult) and not line.id and self._version < _RESULTS_SINCE:
            return
        await self.start()
        await self._reply.write(msgspec.json.encode(line) + b"\r\n")

    async def start(self) -> None:
        """Send the head, if that has not been sent."""
        if not self._reply.started:
            await self._reply.start("application/json")

    async def fail(self, error: VchError) -> None:
        """End with an error: as a line, or by raising it if no line has been sent."""
        if not self._reply.started:
            raise error
        code = error.code if isinstance(error, BuildFailed) else 0
        line = ErrorLine(ErrorDetail(code, str(error)), str(error))
        await self._reply.write(msgspec.json.encode(line) + b"\r\n")
