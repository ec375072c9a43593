"""What the launcher requires of a spec beyond its types."""

import json
from typing import Any

import pytest

from tether.launch.oci import SpecError
from tether.launch.spec import parse_spec_untrusted


def _encode(process: dict[str, Any], **members: Any) -> bytes:
    return json.dumps({"ociVersion": "1.0.2", "process": process, **members}).encode()


def test_a_spec_of_an_exec() -> None:
    data = _encode({"args": ["id"], "cwd": "/srv"})
    spec = parse_spec_untrusted(data)
    assert (spec.process.args, spec.process.cwd, spec.raw) == (("id",), "/srv", data)
    assert (spec.root.path, spec.hostname, spec.mounts, spec.namespaces) == ("/", "", (), frozenset())


def test_namespaces_are_a_set() -> None:
    spec = parse_spec_untrusted(_encode({"args": ["x"]}, linux={"namespaces": [{"type": "pid"}, {"type": "mount"}]}))
    assert spec.namespaces == {"pid", "mount"}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (_encode({}), "process.args is empty"),
        (_encode({"args": ["x"], "cwd": "srv"}), "process.cwd is not absolute"),
        (_encode({"args": ["x"]}, linux={"namespaces": [{"type": "time"}]}), "linux.namespaces: time not supported"),
    ],
)
def test_refusals(data: bytes, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        parse_spec_untrusted(data)
