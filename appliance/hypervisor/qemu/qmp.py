"""Messages of QEMU's monitor protocol (QMP, qemu/docs/interop/qmp-spec.txt). Pure.

The peer runs a guest, so its messages are bounded and checked before use.
"""

import json
from dataclasses import dataclass

import msgspec

from appliance.errors import HypervisorError

# A longer line is refused.
LONGEST_LINE = 1 << 20
_LONGEST_ERROR, _LONGEST_NAME = 500, 64


@dataclass(frozen=True, slots=True)
class Event:
    """An asynchronous event. `device` is the device that it is about, "" when it is about none."""

    name: str
    device: str


@dataclass(frozen=True, slots=True)
class Refused:
    """QEMU's error for a command; the text is QEMU's."""

    text: str


@dataclass(frozen=True, slots=True)
class Returned:
    """What a command returns. Its type depends on the command."""

    value: object


class _Message(msgspec.Struct):
    event: str | None = None
    data: object = None
    error: object = None
    value: object = msgspec.field(name="return", default=None)


class RunState(msgspec.Struct):
    """The answer to query-status."""

    running: bool = False
    status: str = ""


class Migration(msgspec.Struct):
    """The answer to query-migrate. `status` is "" while no migration was ever started."""

    status: str = ""
    error: str = msgspec.field(name="error-desc", default="")


def command_line(command: str, arguments: dict[str, object]) -> bytes:
    """A command as QEMU reads it."""
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"


def parse_untrusted(line: bytes) -> Event | Refused | Returned:
    """Read one line of QEMU. HypervisorError when it is not a message."""
    try:
        message = msgspec.json.decode(line, type=_Message)
    except (ValueError, RecursionError) as error:
        raise HypervisorError("QEMU's monitor sends a line that is not a message") from error
    if message.event is not None:
        device = message.data.get("device", "") if isinstance(message.data, dict) else ""
        return Event(message.event[:_LONGEST_NAME], str(device)[:_LONGEST_NAME])
    if message.error is not None:
        return Refused(str(message.error)[:_LONGEST_ERROR])
    return Returned(message.value)
