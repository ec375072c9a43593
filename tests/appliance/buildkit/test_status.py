"""Progress and failures in plain values."""

import json
import time

import pytest

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.status import (
    BuildFailure,
    Log,
    Progress,
    Vertex,
    parse_failure,
    parse_progress_untrusted,
)
from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2
from protos.tether.v1.status_pb2 import Detail, Status
from tether.rpc.status import Code


def test_progress() -> None:
    message = control_pb2.Progress()
    done = message.vertexes.add(digest="a", name="[1/2] FROM x", cached=True)
    done.started.seconds = done.completed.seconds = 1
    message.vertexes.add(digest="b", name="c", error="d")
    message.logs.add(vertex="a", stream=2, message=b"\xff")
    message.warnings.add(short=b"w\xff")
    assert parse_progress_untrusted(message.SerializeToString()) == Progress(
        (Vertex("a", "[1/2] FROM x", True, True, True), Vertex("b", "c", error="d")),
        (Log("a", 2, b"\xff"),),
        ("w\ufffd",),
    )
    with pytest.raises(ProtocolError, match="malformed progress"):
        parse_progress_untrusted(b"\xff")


def _failure(text: str, value: bytes | None = None) -> BuildFailure:
    status = Status(code=2, details=[Detail(type_url="other", value=b"x")])
    if value is not None:
        status.details.append(Detail(type_url="github.com/moby/buildkit/gatewayapi.ExitMessage+json", value=value))
    return parse_failure(BuildkitError(Code.UNKNOWN, text, status.SerializeToString()))


def test_a_run_that_failed() -> None:
    text = 'failed to solve: process "/bin/sh -c echo \\"a\\"; exit 3" did not complete successfully: exit code: 3'
    failure = _failure(text, json.dumps({"Code": 3}).encode())
    assert (failure.command, failure.exit_code) == ('/bin/sh -c echo "a"; exit 3', 3)
    assert failure.text.startswith("process ")
    assert _failure('process "\\x01" did not complete successfully').command == "\\x01"


def test_other_failures() -> None:
    assert _failure("not found") == BuildFailure("not found")
    assert _failure("bad", b"{").exit_code == 0
    assert parse_failure(BuildkitError(Code.UNKNOWN, "bad", b"\xff")) == BuildFailure("bad")


def test_a_long_failure_is_read_in_little_time_and_memory() -> None:
    command = "x" * (2 << 20)
    before = time.thread_time()
    text = f'process "{command}" did not complete successfully: exit code: 1'
    assert parse_failure(BuildkitError(Code.UNKNOWN, text)).command == command
    for hostile in ('process "', 'process "a\\\\', '"\\'):
        assert parse_failure(BuildkitError(Code.UNKNOWN, hostile * 100_000)).command == ""
    assert time.thread_time() - before < 1
