"""Lines of answers that a whole build does not show (test_classic.py)."""

import threading

import pytest

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.status import Progress, parse_progress_untrusted
from appliance.container.build_lines import BuildFailed, BuildLine
from appliance.engine.builds import answers
from appliance.engine.builds.answers import LARGE_PROGRESS, TextWriter, TraceWriter
from appliance.errors import InvalidParameter
from protos.buildkit.v1 import control_pb2
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


async def test_large_progress_does_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[bool] = []

    def parse(raw: bytes) -> Progress:
        threads.append(threading.current_thread() is threading.main_thread())
        return parse_progress_untrusted(raw)

    lines: list[BuildLine] = []

    async def report(line: BuildLine) -> None:
        lines.append(line)

    monkeypatch.setattr(answers, "parse_progress_untrusted", parse)
    writer = TextWriter([], [], report, quiet=False)
    for size in (1, LARGE_PROGRESS):
        progress = control_pb2.Progress(vertexes=[control_pb2.Vertex(digest="1", name="[1/1] RUN x")])
        progress.vertexes[0].started.seconds = 1
        progress.logs.add(vertex="1", stream=1, message=b"o" * size)
        await writer.progress(progress.SerializeToString())
    assert threads == [True, False]
    assert sum(line.stream.count("o") for line in lines) == 1 + LARGE_PROGRESS
