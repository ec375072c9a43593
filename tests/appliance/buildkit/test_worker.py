"""What BuildKit says of itself."""

import pytest

from appliance.buildkit.worker import (
    TESTED_VERSION,
    check_workers_untrusted,
    first_info,
    first_workers,
    version_untrusted,
)
from appliance.errors import ProtocolError
from protos.buildkit.v1 import control_pb2


def test_answers_before_the_first_builder() -> None:
    check_workers_untrusted(first_workers())
    (worker,) = control_pb2.WorkersAnswer.FromString(first_workers()).workers
    assert [f"{one.os}/{one.architecture}" for one in worker.platforms] == ["linux/amd64", "linux/386"]
    assert worker.version.version == version_untrusted(first_info()) == TESTED_VERSION


def test_answers_of_another_builder() -> None:
    assert version_untrusted(b"") == ""
    with pytest.raises(ProtocolError, match="no worker"):
        check_workers_untrusted(b"")
    for check in (version_untrusted, check_workers_untrusted):
        with pytest.raises(ProtocolError, match="malformed"):
            check(b"\x0a\xff")
