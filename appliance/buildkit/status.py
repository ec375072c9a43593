"""Progress and failures of a build, as plain values for the engine."""

import re
from dataclasses import dataclass

import msgspec
from google.protobuf.message import DecodeError

from appliance.buildkit.errors import BuildkitError
from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2
from protos.tether.v1 import status_pb2

STDERR = 2
# The type of the detail that has the exit status of a RUN (buildkit solver/errdefs, frontend/gateway/pb/exit.go).
_EXIT_MESSAGE = "gatewayapi.ExitMessage+json"
# Possessive, so that a text of megabytes takes neither much time nor much memory.
_PROCESS = re.compile(r'process "((?:[^"\\]++|\\.)*+)" did not complete successfully', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Vertex:
    """A step of BuildKit. The same digest comes again when the state of the step changes. `error` is "" for a step that has not failed."""

    digest: str
    name: str
    cached: bool = False
    started: bool = False
    completed: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Log:
    """Output of the step with the digest `vertex`; `stream` is 1 for stdout, 2 for stderr."""

    vertex: str
    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """One answer of Control/Status."""

    vertexes: tuple[Vertex, ...] = ()
    logs: tuple[Log, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """`command` and `exit_code` are those of the RUN that failed; "" and 0 for any other failure, of which `text` is all."""

    text: str
    command: str = ""
    exit_code: int = 0


class _ExitMessage(msgspec.Struct):
    Code: int = 0


def parse_progress_untrusted(raw: bytes) -> Progress:
    """An answer of Control/Status. ProtocolError for a malformed one."""
    message = control_pb2.Progress()
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise ProtocolError(f"malformed progress of a build: {error}") from error
    return Progress(
        tuple(
            Vertex(one.digest, one.name, one.cached, one.HasField("started"), one.HasField("completed"), one.error)
            for one in message.vertexes
        ),
        tuple(Log(one.vertex, one.stream, one.message) for one in message.logs),
        tuple(one.short.decode("utf-8", "replace") for one in message.warnings),
    )


def parse_failure(error: BuildkitError) -> BuildFailure:
    """Why a Solve has failed. Details that are malformed count as none."""
    text = error.text.removeprefix("failed to solve: ")
    found = _PROCESS.search(text)
    return BuildFailure(text, _unquoted(found[1]) if found else "", _exit_code(error.details))


def _exit_code(details: bytes) -> int:
    status = status_pb2.Status()
    try:
        status.ParseFromString(details)
        for detail in status.details:
            if detail.type_url.endswith(_EXIT_MESSAGE):
                return msgspec.json.decode(detail.value, type=_ExitMessage).Code
    except (DecodeError, msgspec.MsgspecError):
        pass
    return 0


def _unquoted(text: str) -> str:
    """The text that Go's %q has quoted. An escape that JSON does not have stays as it is."""
    try:
        return msgspec.json.decode(f'"{text}"', type=str)
    except msgspec.MsgspecError:
        return text
