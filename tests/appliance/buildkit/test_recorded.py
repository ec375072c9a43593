"""Messages that buildx 0.38.2 and buildkitd 0.34.2 exchanged in `buildx build -t x:1 -t y:2 --cache-from only-here:1`, byte for byte."""

import json
from pathlib import Path

from appliance.buildkit.rewrite import FrontendRequest, SolvePlan, SolveRequest, rewrite_answer, rewrite_workers
from appliance.buildkit.shown_names import show_history, show_progress
from protos.buildkit.v1 import control_pb2, gateway_pb2

_RECORDED = Path(__file__).with_name("recorded")
DOOR = "vch.internal:15050"
CACHES = {"only-here:1": f"{DOOR}/docker.io/library/only-here:1"}


def recorded(name: str) -> bytes:
    return (_RECORDED / f"{name}.bin").read_bytes()


def test_the_request_of_buildx_asks_for_an_image_in_the_store() -> None:
    request = SolveRequest.parse_untrusted(recorded("solve_request"))
    facts = request.facts
    assert facts.exports_image
    assert facts.names == ("x:1", "y:2")
    assert set(facts.cache_imports) == {"only-here:1"}
    assert not facts.forces_pull
    # buildx sends the exporter twice: in its old fields, and in the list.
    changed = control_pb2.Solve.FromString(request.rewritten(SolvePlan(DOOR, "0a1b", (), CACHES)))
    [exporter] = changed.exporters
    assert (exporter.type, exporter.attributes["name"]) == ("image", f"{DOOR}/build/0a1b:latest")
    assert [entry.type for entry in changed.cache.exports] == ["inline"]
    assert [entry.attributes["ref"] for entry in changed.cache.imports] == [CACHES["only-here:1"]]


def test_the_frontend_of_buildx_gets_its_caches_in_a_request_of_its_own() -> None:
    request = FrontendRequest.parse_untrusted(recorded("frontend_request"))
    assert request.cache_imports == ("only-here:1",)
    changed = gateway_pb2.FrontendSolve.FromString(request.rewritten(CACHES))
    [entry] = json.loads(changed.frontend_attributes["cache-imports"])
    assert entry == {"Type": "registry", "Attrs": {"ref": CACHES["only-here:1"]}}
    # The other fields are those of the client.
    unchanged = FrontendRequest.parse_untrusted(recorded("frontend_request")).rewritten({})
    assert len(unchanged) - len(recorded("frontend_request")) in range(8)


def test_the_answer_of_buildkitd_names_the_digest_of_the_config() -> None:
    given = control_pb2.SolveAnswer.FromString(recorded("solve_answer")).exporter_answer
    image_id = given["containerimage.config.digest"]
    assert given["containerimage.digest"] != image_id
    answer = control_pb2.SolveAnswer.FromString(rewrite_answer(recorded("solve_answer"), image_id, ["x:1"]))
    assert answer.exporter_answer["containerimage.digest"] == image_id
    assert answer.exporter_answer["image.name"] == "x:1"


def test_the_worker_of_buildkitd_is_shown_as_that_of_a_daemon() -> None:
    assert b"worker.snapshotter" in recorded("workers_answer")
    changed = rewrite_workers(recorded("workers_answer"), "10.0.0.1")
    assert b"worker.snapshotter" not in changed
    [before] = control_pb2.WorkersAnswer.FromString(recorded("workers_answer")).workers
    [worker] = control_pb2.WorkersAnswer.FromString(changed).workers
    assert list(worker.platforms) == list(before.platforms) != []


def test_progress_and_history_do_not_show_the_door() -> None:
    assert b"FROM vch.internal:15050/docker.io" in recorded("progress")
    shown = show_progress(recorded("progress"))
    assert b"FROM docker.io/library/only-here:1@sha256:" in shown
    assert b"vch.internal" not in shown
    assert b"vch.internal" not in show_history(recorded("history"))
    attributes = {
        f"attribute{number}": "docker-image://vch.internal:15050/docker.io/library/x:1" for number in range(300)
    }
    event = control_pb2.HistoryEvent(record=control_pb2.HistoryRecord(frontend_attributes=attributes))
    assert b"vch.internal" not in show_history(event.SerializeToString())
