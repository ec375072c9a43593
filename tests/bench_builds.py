"""`python -m tests.bench builds`: builds by vchd beside builds of the same buildkitd by buildx alone (its remote driver).

First buildkitd runs natively, so the figures are the costs of what is between a client and buildkitd, and of the image store: buildx alone
leaves the image in buildkitd. Bar: twice the time. Then builds in the builder machine are compared with those of buildctl inside of
that machine, which has the context there already. Bar: 1.3 times the time.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from tests.live.builds.machine import machine_daemon
from tests.live.builds.native import BuildDaemon, build_daemon
from tests.live.builds.native_vchd import VARIABLE, NativePlace

_BUILDER = "alone"
_STEPS = 10
_MEGABYTE = 1_000_000
# Without KVM, and beside other work, 100 MB take minutes.
_PATIENCE = 900


def _random(size: int) -> bytes:
    return os.urandom(size)


def _rebuild(builds: BuildDaemon) -> Callable[[], Path]:
    """The same context each time: all is cached."""
    context = builds.context("FROM scratch\nCOPY file /file\nENV A=1\n", {"file": "content"})
    return lambda: context


def _large(builds: BuildDaemon) -> Callable[[], Path]:
    return lambda: builds.context("FROM scratch\nCOPY file /file\n", {"file": _random(100 * _MEGABYTE)})


def _many(builds: BuildDaemon) -> Callable[[], Path]:
    steps = "".join(f"COPY file{number} /file{number}\n" for number in range(_STEPS))
    files = [f"file{number}" for number in range(_STEPS)]
    return lambda: builds.context(f"FROM scratch\n{steps}", {name: _random(_MEGABYTE) for name in files})


_KINDS = (("no-op", _rebuild), ("context of 100 MB", _large), (f"{_STEPS} COPY steps", _many))


def _compare(builds: BuildDaemon, rounds: int, ways: Mapping[str, Callable[[Path], float]]) -> None:
    """Print a line for each kind of build. The two ways take turns, each with a context of its own."""
    for title, kind in _KINDS:
        make = kind(builds)
        taken: dict[str, list[float]] = {way: [] for way in ways}
        # The first round fills caches, and is not counted.
        for number in range(rounds + 1):
            for way, build in ways.items():
                seconds = build(make())
                if number:
                    taken[way].append(seconds)
        medians = {way: statistics.median(times) for way, times in taken.items()}
        ours, other = medians.values()
        figures = "   ".join(f"{way} {seconds:.2f} s" for way, seconds in medians.items())
        print(f"build, {title:27}      {figures}   ratio {ours / other:.2f}", flush=True)


def _by_buildx(builds: BuildDaemon, *arguments: str) -> Callable[[Path], float]:
    def build(context: Path) -> float:
        started = time.monotonic()
        client = builds.start_buildx("build", *arguments, str(context))
        _, said = client.communicate(timeout=_PATIENCE)
        assert client.returncode == 0, said
        return time.monotonic() - started

    return build


def _by_buildctl(builds: BuildDaemon, builder: str) -> Callable[[Path], float]:
    """buildctl in the builder's container, by the clock of its machine: without the time of `docker exec`."""
    command = (
        "buildctl build --frontend dockerfile.v0 --local context=/context --local dockerfile=/context "
        "--output type=image,name=bench:1,compression=uncompressed"
    )

    def build(context: Path) -> float:
        builds.daemon.must("exec", builder, "rm", "-rf", "/context")
        builds.daemon.must("cp", str(context), f"{builder}:/context")
        script = f"read begin _ < /proc/uptime; {command} || exit; read end _ < /proc/uptime; echo $begin $end"
        told = builds.daemon.docker("exec", builder, "sh", "-c", script, check=True, timeout=_PATIENCE).stdout
        begin, end = map(float, told.split()[-2:])
        return end - begin

    return build


def compare_builds(root: Path, rounds: int) -> None:
    """Measure builds in a native buildkitd."""
    root.mkdir()
    with build_daemon(root) as builds:
        socket = msgspec.json.decode(builds.daemon.environment[VARIABLE], type=NativePlace).socket
        builds.buildx("create", "--name", _BUILDER, "--driver", "remote", f"unix://{socket}")
        alone = ("--builder", _BUILDER, "--provenance=false", "-o", "type=image,name=bench:1,compression=uncompressed")
        _compare(
            builds,
            rounds,
            {"vchd": _by_buildx(builds, "-t", "bench:1"), "buildx alone": _by_buildx(builds, *alone)},
        )


def compare_builds_in_a_machine(root: Path, rounds: int) -> None:
    """Measure builds in the builder machine, and how long the first build waits for it."""
    root.mkdir()
    with machine_daemon(root) as builds:
        ours = _by_buildx(builds, "-t", "bench:1")
        first, second = (ours(_rebuild(builds)()) for _ in range(2))
        print(
            f"build, first from cold                  {first:.2f} s, of which {first - second:.2f} s for the machine",
            flush=True,
        )
        builder = builds.daemon.must("ps", "-q", "--filter", "label=vch.role=builder").strip()
        _compare(builds, rounds, {"vchd": ours, "buildctl inside": _by_buildctl(builds, builder)})
