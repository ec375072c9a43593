"""Text of the classic builder, from progress that buildkitd v0.34.2 has reported (data/progress.json) and from made progress."""

import base64
import functools
import json
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.buildkit.errors import BuildkitError
from appliance.buildkit.status import BuildFailure, Log, Progress, Vertex, parse_failure, parse_progress_untrusted
from appliance.engine.builds.classic_stream import MAX_WAITING, ClassicStream
from appliance.errors import VchError
from appliance.image.dockerfile_steps import Step, steps_of
from tether.rpc.status import Code

_CACHE = " ---> Using cache\n"


@functools.cache
def _recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / "data/progress.json").read_text())
    return found


def _steps(text: str, target: str) -> list[Step]:
    try:
        return steps_of(text, target)
    except VchError:
        return []


def _played(name: str, *, with_steps: bool = True) -> tuple[list[str], str]:
    """The text of a recorded build, with REG for its registry, and its error."""
    case = _recorded()[name]
    registry = _recorded()["plain"]["dockerfile"].split()[1].partition("/")[0]
    stream = ClassicStream(_steps(case["dockerfile"], case["target"]) if with_steps else [])
    pieces = []
    for raw in case["status"]:
        pieces += stream.feed(parse_progress_untrusted(base64.b64decode(raw)))
    error = ""
    if "text" in case:
        failure = BuildkitError(Code(case["code"]), case["text"], base64.b64decode(case["details"]))
        rest, error = stream.fail(parse_failure(failure))
    else:
        rest = stream.finish(succeeded=True)
    return [piece.replace(registry, "REG") for piece in pieces + rest], error.replace(registry, "REG")


_BUILDS = {
    "plain": [
        "Step 1/5 : FROM REG/busybox\n",
        "Step 2/5 : ENV A=b\n",
        "Step 3/5 : RUN echo one; echo two >&2\n",
        "one\n",
        "\x1b[91mtwo\n\x1b[0m",
        "Step 4/5 : COPY f /f\n",
        'Step 5/5 : CMD ["sh"]\n',
    ],
    "cached": [
        "Step 1/5 : FROM REG/busybox\n",
        "Step 2/5 : ENV A=b\n",
        _CACHE,
        "Step 3/5 : RUN echo one; echo two >&2\n",
        _CACHE,
        "Step 4/5 : COPY f /f\n",
        _CACHE,
        'Step 5/5 : CMD ["sh"]\n',
        _CACHE,
    ],
    "stages": [
        "Step 3/8 : FROM REG/busybox AS two\n",
        "Step 1/8 : FROM REG/busybox AS one\n",
        "Step 2/8 : RUN echo 1; sleep 1; echo 1b; touch /1\n",
        "1\n",
        "1b\n",
        "Step 4/8 : WORKDIR /w\n",
        "Step 5/8 : RUN echo 2; sleep 0.5; echo 2b; touch /2\n",
        "2\n",
        "2b\n",
        "Step 6/8 : FROM one\n",
        "Step 7/8 : COPY --from=two /2 /2\n",
        "Step 8/8 : LABEL a=b\n",
    ],
    "scratch": ["Step 1/2 : FROM scratch\n", "Step 2/2 : LABEL a=b\n"],
    "target": ["Step 1/2 : FROM REG/busybox AS one\n", "Step 2/2 : RUN echo t1\n", "t1\n"],
}


@pytest.mark.parametrize("name", _BUILDS)
def test_a_build(name: str) -> None:
    assert _played(name) == (_BUILDS[name], "")


_FAILURES = {
    "fails": (3, "The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7"),
    "exec_fails": (3, "The command '/bin/sh -c echo \"a\\tb\"; exit 3' returned a non-zero code: 3"),
    "syntax": (0, "dockerfile parse error on line 2: unknown instruction: UNKNOWN"),
    "missing": (
        2,
        "COPY failed: file not found in build context or excluded by .dockerignore: stat nosuch: file does not exist",
    ),
    "nobase": (1, "REG/nosuch: failed to resolve source metadata for REG/nosuch:latest: REG/nosuch:latest: not found"),
    "badtarget": (0, 'target stage "nope" could not be found (did you mean one?)'),
}


@pytest.mark.parametrize("name", _FAILURES)
def test_a_failure(name: str) -> None:
    pieces, error = _played(name)
    assert (len(pieces), error) == _FAILURES[name]


def test_without_the_dockerfile() -> None:
    base, *pieces = _played("plain", with_steps=False)[0]
    assert base.startswith("Step 1/3 : FROM REG/busybox:latest@sha256:")
    assert pieces == [
        "Step 2/3 : RUN echo one; echo two >&2\n",
        "one\n",
        "\x1b[91mtwo\n\x1b[0m",
        "Step 3/3 : COPY f /f\n",
    ]


def _started(digest: str, name: str, **state: Any) -> Vertex:
    return Vertex(digest, name, started=True, **state)


def test_triggers_shift_the_numbers() -> None:
    stream = ClassicStream(steps_of("FROM a\nRUN b\n"))
    vertexes = (
        _started("1", "[1/3] FROM a", completed=True),
        _started("2", "[2/3] ONBUILD RUN t", completed=True),
        _started("3", "[3/3] RUN b", completed=True),
    )
    assert stream.feed(Progress(vertexes)) == ["Step 1/2 : FROM a\n", "Step 2/2 : RUN b\n", "# ONBUILD RUN t\n"]


def test_steps_at_once_come_one_after_the_other() -> None:
    stream = ClassicStream(steps_of("FROM x AS a\nRUN 1\nFROM x AS b\nRUN 2\nFROM b\nCOPY --from=a . .\n"))
    pieces = stream.feed(Progress((_started("1", "[a 2/2] RUN 1"), _started("2", "[b 2/2] RUN 2"))))
    pieces += stream.feed(Progress(logs=(Log("2", 1, b"two "), Log("1", 1, b"one\n"), Log("2", 1, b"two\n"))))
    assert pieces[-1] == "one\n"
    assert stream.feed(Progress((_started("1", "[a 2/2] RUN 1", completed=True),))) == [
        "Step 3/6 : FROM x AS b\n",
        "Step 4/6 : RUN 2\n",
        "two ",
        "two\n",
    ]


def test_much_output_comes_before_its_turn() -> None:
    stream = ClassicStream([])
    stream.feed(Progress((_started("1", "[a 1/2] RUN 1"), _started("2", "[b 1/2] RUN 2"))))
    pieces = stream.feed(Progress(logs=(Log("2", 1, bytes(MAX_WAITING + 1)),)))
    assert pieces[0].endswith("RUN 2\n")
    assert sum(map(len, pieces[1:])) == MAX_WAITING + 1
    assert max(map(len, pieces)) == 64 << 10
    assert stream.feed(Progress(logs=(Log("1", 1, b"one"),))) == []
    assert stream.finish(succeeded=True) == ["one"]


def test_output_of_many_steps_at_once_takes_little_time() -> None:
    stream = ClassicStream([])
    many = [str(number) for number in range(3000)]
    stream.feed(Progress(tuple(_started(name, f"[{name} 1/2] RUN {name}") for name in many)))
    before = time.thread_time()
    pieces = stream.feed(Progress(logs=tuple(Log(name, 1, bytes(2000)) for name in many)))
    assert time.thread_time() - before < 0.5
    shown = sum(piece.count("\0") for piece in pieces)
    assert 6_000_000 - MAX_WAITING <= shown < 6_000_000


def test_a_path_that_looks_like_an_error_takes_little_time() -> None:
    text = "failed to calculate checksum of ref " * 20_000
    before = time.thread_time()
    assert ClassicStream([]).fail(BuildFailure(text)) == ([], text)
    assert time.thread_time() - before < 0.5


def test_characters_that_are_cut_in_the_middle() -> None:
    stream = ClassicStream([])
    data = "é".encode()
    vertexes = (_started("1", "[1/1] RUN 1"),)
    pieces = stream.feed(Progress(vertexes, (Log("1", 1, data[:1]), Log("1", 2, b"\xff"), Log("1", 1, data[1:]))))
    assert pieces[1:] == ["\x1b[91m\ufffd\x1b[0m", "é"]


def test_warnings_come_last() -> None:
    stream = ClassicStream([])
    assert stream.feed(Progress(warnings=("one",) * 200)) == []
    assert stream.finish(succeeded=True) == ["[Warning] one\n"] * 100


def test_a_failure_of_an_add() -> None:
    stream = ClassicStream(steps_of("FROM x\nADD a /\n"))
    stream.feed(Progress((_started("1", "[2/2] ADD a /"),)))
    text = 'x: failed to calculate checksum of ref 1::2: "/a": not found'
    assert stream.fail(BuildFailure(text))[1].startswith("ADD failed: file not found in build context")


def test_a_flood_of_vertexes_is_bounded() -> None:
    stream = ClassicStream([])
    many = [_started(str(n), f"[s{n} 1/1] RUN x", completed=n % 2 == 0) for n in range(11_000)]
    begun = time.thread_time()
    pieces = stream.feed(Progress(tuple(many)))
    pieces += stream.finish(succeeded=True)
    assert time.thread_time() - begun < 1
    assert sum(piece.startswith("Step") for piece in pieces) == 10_000
