"""Our descriptions of BuildKit's messages leave alone what they do not describe."""

from protos.buildkit.v1 import control_pb2
from tests.protos.wire import field


def test_fields_that_are_not_described_survive() -> None:
    # SolveRequest.Definition 2, FrontendInputs 10, EnableSessionExporter 14; of a Rule in SourcePolicy: an unknown field 9.
    rule = field(1, 2) + field(9, b"kept")
    raw = field(1, b"ref") + field(2, b"definition") + field(10, b"inputs") + field(12, field(2, rule)) + field(14, 1)
    parsed = control_pb2.Solve.FromString(raw)
    assert (parsed.ref, parsed.source_policy.rules[0].action) == ("ref", 2)
    parsed.internal = False
    parsed.source_policy.rules.add(action=1)
    made = parsed.SerializeToString()
    for kept in (field(2, b"definition"), field(10, b"inputs"), field(14, 1), field(9, b"kept")):
        assert kept in made


def test_numbers_are_buildkit_s() -> None:
    """api/services/control/control.proto of moby/buildkit v0.34."""
    raw = control_pb2.Solve(
        ref="r",
        session="s",
        frontend="f",
        entitlements=["e"],
        source_policy_session="p",
        exporters=[control_pb2.Exporter(type="moby", attributes={"name": "x"})],
    ).SerializeToString(deterministic=True)
    exporter = field(1, b"moby") + field(2, field(1, b"name") + field(2, b"x"))
    assert raw == (
        field(1, b"r") + field(5, b"s") + field(6, b"f") + field(9, b"e") + field(13, exporter) + field(15, b"p")
    )
