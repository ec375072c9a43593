"""Users see their own names of images in progress, history and errors."""

from appliance.buildkit.shown_names import show_error, show_history, show_progress
from protos.buildkit.v1 import control_pb2
from protos.tether.v1 import status_pb2

BASE = "vch.internal:4711/docker.io/library/busybox:1"
SHOWN = "docker.io/library/busybox:1"
RESULT = "vch.internal:4711/build/0a1b:latest"


def test_progress_has_the_names_of_the_user() -> None:
    message = control_pb2.Progress(
        vertexes=[control_pb2.Vertex(digest="d", name=f"[1/2] FROM {BASE}@sha256:1", error=f"{BASE}: not found")],
        statuses=[control_pb2.VertexStatus(id=f"pushing {RESULT}", name=f"resolve {BASE}", total=3)],
        logs=[control_pb2.VertexLog(message=b"\xff " + BASE.encode())],
        warnings=[control_pb2.VertexWarning(short=BASE.encode(), detail=[b"a", BASE.encode()])],
    )
    # Field 8 of Vertex, which vchd does not describe.
    raw = message.SerializeToString()
    shown = control_pb2.Progress.FromString(show_progress(raw, "x:1"))
    assert shown.vertexes[0].name == f"[1/2] FROM {SHOWN}@sha256:1"
    assert shown.vertexes[0].error == f"{SHOWN}: not found"
    assert (shown.statuses[0].id, shown.statuses[0].name) == ("pushing x:1", f"resolve {SHOWN}")
    assert shown.statuses[0].total == 3
    assert shown.logs[0].message == b"\xff " + SHOWN.encode()
    assert list(shown.warnings[0].detail) == [b"a", SHOWN.encode()]
    assert shown.warnings[0].short == SHOWN.encode()


def test_messages_without_the_door_and_messages_that_vchd_cannot_read_pass_unchanged() -> None:
    # Not a message at all: it is not parsed.
    for show in (show_progress, show_history, show_error):
        assert show(b"\xff\xff") == b"\xff\xff"
        broken = b"\xff" + BASE.encode()
        assert show(broken) == broken


def test_history_has_the_names_of_the_user() -> None:
    record = control_pb2.HistoryRecord(
        ref="r",
        frontend_attributes={"a": BASE},
        exporters=[control_pb2.Exporter(type="image", attributes={"name": RESULT})],
        exporter_answer={"image.name": RESULT, "other": "x"},
    )
    raw = control_pb2.HistoryEvent(type=1, record=record).SerializeToString()
    shown = control_pb2.HistoryEvent.FromString(show_history(raw))
    assert shown.record.frontend_attributes["a"] == SHOWN
    assert shown.record.exporters[0].attributes["name"] == "image"
    assert dict(shown.record.exporter_answer) == {"image.name": "image", "other": "x"}
    assert (shown.type, shown.record.ref) == (1, "r")


def test_the_text_of_an_error_has_the_names_of_the_user_and_its_details_stay() -> None:
    detail = status_pb2.Detail(type_url="type.googleapis.com/x", value=b"\x01")
    raw = status_pb2.Status(code=2, message=f"failed: {BASE}", details=[detail]).SerializeToString()
    shown = status_pb2.Status.FromString(show_error(raw))
    assert shown.message == f"failed: {SHOWN}"
    assert list(shown.details) == [detail]
