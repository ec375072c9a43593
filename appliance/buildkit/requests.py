"""Requests that vchd makes of buildkitd for clients that do not speak BuildKit's API, and their answers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from appliance.container.build_request import PruneRequest
from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2

STATUS = "/moby.buildkit.v1.Control/Status"
PRUNE = "/moby.buildkit.v1.Control/Prune"
MOBY_EXPORTER = "moby"
_IMAGE_ID = "containerimage.digest"
_FRONTEND = "dockerfile.v0"
_HOST_NETWORK = "network.host"
# Characters of a record's ID. BuildKit's have 25.
_MOST_ID = 128


@dataclass(frozen=True, slots=True)
class FrontendBuild:
    """A build of a Dockerfile. `reference` names it, `exporter` is "" for a build without a result."""

    reference: str
    session: str
    attributes: Mapping[str, str]
    exporter: str = MOBY_EXPORTER
    exporter_attributes: Mapping[str, str] | None = None
    inline_cache: bool = False


def solve_request(build: FrontendBuild) -> bytes:
    """A request of Control/Solve, as dockerd makes it (moby builder-next/builder.go Build)."""
    message = control_pb2.Solve(
        ref=build.reference,
        session=build.session,
        frontend=_FRONTEND,
        frontend_attributes=build.attributes,
    )
    if build.exporter:
        message.exporters.add(type=build.exporter, attributes=build.exporter_attributes)
    if build.inline_cache:
        message.cache.exports.add(type="inline")
    if build.attributes.get("force-network-mode") == "host":
        message.entitlements.append(_HOST_NETWORK)
    return message.SerializeToString()


def image_id_untrusted(answer: bytes) -> str:
    """The ID of the image in an answer of Control/Solve. ProtocolError when there is none."""
    message = control_pb2.SolveAnswer()
    _parse(message, answer, "a build")
    image_id = message.exporter_answer.get(_IMAGE_ID, "")
    if not image_id:
        raise ProtocolError("missing image id")
    return image_id


def status_request(reference: str) -> bytes:
    """A request of Control/Status."""
    return control_pb2.StatusRequest(ref=reference).SerializeToString()


def prune_request(asked: PruneRequest) -> bytes:
    """A request of Control/Prune."""
    return control_pb2.PruneRequest(
        filters=asked.filters,
        all=asked.everything,
        keep_duration=asked.keep_duration,
        reserved_space=asked.reserved_space,
        max_used_space=asked.max_used_space,
        min_free_space=asked.min_free_space,
    ).SerializeToString()


def pruned_untrusted(answer: bytes) -> tuple[str, int]:
    """The ID and the size in bytes of a record that Control/Prune has removed. ProtocolError."""
    message = control_pb2.UsageRecord()
    _parse(message, answer, "a prune")
    return message.id[:_MOST_ID], message.size


def _parse(message: Message, raw: bytes, what: str) -> None:
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise ProtocolError(f"malformed answer of BuildKit to {what}: {error}") from error
