"""What users see of a build: messages and errors of buildkitd with the users' names of images instead of the door's."""

from functools import partial

from google.protobuf.message import DecodeError

from appliance.buildkit.door_names import cut_names, cut_names_in, names_door
from appliance.buildkit.errors import BuildkitError
from protos.buildkit.v1 import control_pb2
from protos.tether.v1 import status_pb2


def status_reference(raw: bytes) -> str:
    """The Solve of which a request of Control/Status asks; "" if the request is malformed, which buildkitd refuses."""
    try:
        return control_pb2.StatusRequest.FromString(raw).ref
    except DecodeError:
        return ""


def show_progress(raw: bytes, result: str = "") -> bytes:
    """A message of Control/Status. `result` replaces the name under which the build pushes its image."""
    if not names_door(raw):
        return raw
    message = control_pb2.Progress()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        return raw
    cut = partial(cut_names, result=result)
    for vertex in message.vertexes:
        vertex.name, vertex.error = cut(vertex.name), cut(vertex.error)
    for status in message.statuses:
        # Clients show the ID of a status.
        status.id, status.name = cut(status.id), cut(status.name)
    for line in message.logs:
        line.message = cut_names_in(line.message, cut)
    for warning in message.warnings:
        warning.short = cut_names_in(warning.short, cut)
        warning.detail[:] = [cut_names_in(part, cut) for part in warning.detail]
    return message.SerializeToString()


def show_history(raw: bytes) -> bytes:
    """A message of Control/ListenBuildHistory."""
    if not names_door(raw):
        return raw
    event = control_pb2.HistoryEvent()
    try:
        event.ParseFromString(raw)
    except DecodeError:
        return raw
    record = event.record
    for attributes in (
        record.frontend_attributes,
        record.exporter_answer,
        *(one.attributes for one in record.exporters),
    ):
        # A copy: protobuf's iterator may skip entries of a map that changes.
        for key, value in dict(attributes).items():
            attributes[key] = cut_names(value)
    return event.SerializeToString()


def show_error(details: bytes) -> bytes:
    """The trailer grpc-status-details-bin: buildx shows the text in it, not grpc-message."""
    if not names_door(details):
        return details
    status = status_pb2.Status()
    try:
        status.ParseFromString(details)
    except DecodeError:
        return details
    status.message = cut_names(status.message)
    return status.SerializeToString()


def shown_error(error: BuildkitError) -> BuildkitError:
    """An error of buildkitd for the user."""
    return BuildkitError(error.code, cut_names(error.text), show_error(error.details))
