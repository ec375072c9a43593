"""Requests that vchd makes, as BuildKit reads them."""

import pytest

from appliance.buildkit.requests import (
    FrontendBuild,
    image_id_untrusted,
    prune_request,
    pruned_untrusted,
    solve_request,
    status_request,
)
from appliance.container.build_request import PruneRequest
from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2


def test_a_solve() -> None:
    attributes = {"filename": "Dockerfile", "force-network-mode": "host"}
    raw = solve_request(FrontendBuild("ref", "session", attributes, "moby", {"name": "a"}, inline_cache=True))
    expected = control_pb2.Solve(
        ref="ref",
        session="session",
        frontend="dockerfile.v0",
        frontend_attributes=attributes,
        entitlements=["network.host"],
    )
    expected.exporters.add(type="moby", attributes={"name": "a"})
    expected.cache.exports.add(type="inline")
    assert control_pb2.Solve.FromString(raw) == expected
    plain = control_pb2.Solve.FromString(solve_request(FrontendBuild("ref", "", {}, "")))
    assert plain == control_pb2.Solve(ref="ref", frontend="dockerfile.v0")


def test_the_image() -> None:
    answer = control_pb2.SolveAnswer(exporter_answer={"containerimage.digest": "sha256:1"})
    assert image_id_untrusted(answer.SerializeToString()) == "sha256:1"
    for raw in (b"", b"\xff"):
        with pytest.raises(ProtocolError):
            image_id_untrusted(raw)


def test_status() -> None:
    assert control_pb2.StatusRequest.FromString(status_request("a")).ref == "a"


def test_a_prune() -> None:
    asked = PruneRequest(
        everything=True, filters=("a",), keep_duration=1, reserved_space=2, max_used_space=3, min_free_space=4
    )
    message = control_pb2.PruneRequest.FromString(prune_request(asked))
    assert (message.all, list(message.filters), message.keep_duration) == (True, ["a"], 1)
    assert (message.reserved_space, message.max_used_space, message.min_free_space) == (2, 3, 4)
    assert pruned_untrusted(control_pb2.UsageRecord(id="a", size=5).SerializeToString()) == ("a", 5)
    # An answer has many records, and each of them may have 16 MiB.
    assert pruned_untrusted(control_pb2.UsageRecord(id="a" * 1000, size=5).SerializeToString()) == ("a" * 128, 5)
    with pytest.raises(ProtocolError):
        pruned_untrusted(b"\xff")
