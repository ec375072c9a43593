"""Lines of answers that a whole build does not show (test_classic.py)."""

from appliance.buildkit.errors import BuildkitError
from appliance.container.build_lines import BuildFailed, BuildLine
from appliance.engine.builds.answers import TextWriter, TraceWriter
from appliance.errors import InvalidParameter
from tether.rpc.status import Code


async def test_the_start_of_a_builder_is_reported() -> None:
    lines: list[BuildLine] = []

    async def report(line: BuildLine) -> None:
        lines.append(line)

    await TextWriter([], [], report, quiet=False).begin(running=True)
    await TextWriter([], [], report, quiet=True).begin(running=False)
    await TraceWriter(report).begin(running=False)
    assert lines == []
    await TextWriter([], [], report, quiet=False).begin(running=False)
    assert lines == [BuildLine("Starting the builder machine\n")]


async def test_what_is_wrong_with_a_dockerfile_is_the_clients_fault() -> None:
    async def report(line: BuildLine) -> None:
        raise AssertionError(line)

    for text, kind in (
        ("dockerfile parse error on line 2: unknown instruction: X", InvalidParameter),
        ('target stage "a" could not be found', InvalidParameter),
        ("file with no instructions", InvalidParameter),
        ("no space left on device", BuildFailed),
    ):
        error = await TextWriter([], [], report, quiet=False).fail(BuildkitError(Code.UNKNOWN, text))
        assert (type(error), str(error)) == (kind, text)
