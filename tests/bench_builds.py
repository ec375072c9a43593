"""`python -m tests.bench builds`: builds by vchd beside builds of the same buildkitd by buildx alone (its remote driver).

buildkitd runs natively, so the figures are the costs of what is between a client and buildkitd, and of the image store: buildx alone leaves
the image in buildkitd. Bar: twice the time.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.live.builds.native import BuildDaemon, build_daemon
from tests.live.builds.native_vchd import VARIABLE, NativePlace

_BUILDER = "alone"
_STEPS = 10
_MEGABYTE = 1_000_000


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


def compare_builds(root: Path, rounds: int) -> None:
    """Print a line for each kind of build. The two ways take turns, each with a context of its own."""
    root.mkdir()
    with build_daemon(root) as builds:
        socket = msgspec.json.decode(builds.daemon.environment[VARIABLE], type=NativePlace).socket
        builds.buildx("create", "--name", _BUILDER, "--driver", "remote", f"unix://{socket}")
        ways = {
            "vchd": ("build", "-t", "bench:1"),
            "buildx alone": (
                "build",
                "--builder",
                _BUILDER,
                "--provenance=false",
                "-o",
                "type=image,name=bench:1,compression=uncompressed",
            ),
        }
        for title, kind in (("no-op", _rebuild), ("context of 100 MB", _large), (f"{_STEPS} COPY steps", _many)):
            make = kind(builds)
            taken: dict[str, list[float]] = {way: [] for way in ways}
            # The first round fills caches, and is not counted.
            for number in range(rounds + 1):
                for way, arguments in ways.items():
                    context = make()
                    started = time.monotonic()
                    builds.buildx(*arguments, str(context))
                    if number:
                        taken[way].append(time.monotonic() - started)
            ours, alone = (statistics.median(times) for times in taken.values())
            print(
                f"build, {title:27}      vchd {ours:.2f} s   buildx alone {alone:.2f} s   ratio {ours / alone:.2f}",
                flush=True,
            )
