"""Lines of the answer of `POST /build` (moby pkg/jsonmessage), and the error that becomes its last line."""

import msgspec

from appliance.errors import VchError


class BuildResult(msgspec.Struct, rename="pascal", frozen=True):
    """What clients read from a line: the image's ID."""

    id: str = msgspec.field(name="ID")


class BuildLine(msgspec.Struct, omit_defaults=True, frozen=True):
    """One line. `stream` is text. `aux` is a result, or BuildKit's progress in base64; `id` says which."""

    stream: str = ""
    id: str = ""
    aux: BuildResult | str | None = None


class BuildFailed(VchError):
    """The build has failed. `code` is the exit code of the command that failed, 0 for any other reason."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code
