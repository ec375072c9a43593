"""All tests, in two lots beside each other, which take about as long.

What counts the whole host's memory comes after them, alone. Prints each lot as it ends, and the ten slowest modules and tests of all;
the exit status is that of all. Beside the tests it builds the programs that some of them need.

    python -m tests.gate [pytest's arguments]      all tests
    python -m tests.gate --check [...]             those that need neither VMs nor VMware's simulator, and are not slow;
                                                   lint runs beside them
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

_ALONE = "tests/live/test_leaks.py"
_VSPHERE = "tests/live/vsphere"
_ROOMS = ["tests/appliance", "tests/build", "tests/protos", "tests/tether", "tests/test_readmes.py"]
# Live tests of QEMU that need neither dockerd nor the shared daemon: they even out the two lots.
_LIVE_BESIDE_ROOMS = ["tests/live/test_kills.py", "tests/live/takeover"]
_LOTS = {
    "live": ["tests/live", *(f"--ignore={path}" for path in (_ALONE, _VSPHERE, *_LIVE_BESIDE_ROOMS))],
    "rooms and vSphere": [*_ROOMS, _VSPHERE, *_LIVE_BESIDE_ROOMS],
}
_QUICK = ["-m", "not live and not simulator and not slow"]
_IMAGES = "tests/appliance/image"
_CHECK = {
    "appliance": ["tests/appliance", f"--ignore={_IMAGES}", *_QUICK],
    "images and the other rooms": [_IMAGES, *_ROOMS[1:], *_QUICK],
}
# `make check` has done the set-up.
_LINT = ["make", "--no-print-directory", "--old-file=setup", "lint"]
_SLOWEST = 10


def _pytest(report: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", f"--junit-xml={report}", *arguments]


def _lots(folder: Path, lots: dict[str, list[str]], more: list[str]) -> dict[str, list[str]]:
    """The command of each lot."""
    return {name: _pytest(folder / f"{name}.xml", *arguments, *more) for name, arguments in lots.items()}


def _together(folder: Path, commands: dict[str, list[str]]) -> list[int]:
    """Run the commands beside each other; their exit statuses."""
    running = []
    statuses = []
    try:
        for name, command in commands.items():
            log = folder / f"{name}.log"
            with log.open("wb") as out:
                running.append((name, log, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)))
        for name, log, process in running:
            statuses.append(process.wait())
            print(f"== {name}\n{log.read_text(errors='replace')}", flush=True)
    finally:
        for _, _, process in running:
            process.kill()
            process.wait()
    return statuses


@contextlib.contextmanager
def _building_tools() -> Iterator[None]:
    """Build the programs that tests need while the tests run; a test that needs one waits for it."""
    builder = subprocess.Popen(["nice", sys.executable, "-m", "tests.live.gotools"], start_new_session=True)
    try:
        yield
    finally:
        # With the compilers that it started.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(builder.pid, signal.SIGTERM)
        builder.wait()


def _print_slowest(reports: list[Path]) -> None:
    cases = [case for report in reports if report.exists() for case in ElementTree.parse(report).iter("testcase")]
    modules: dict[str, float] = defaultdict(float)
    tests: dict[str, float] = defaultdict(float)
    for case in cases:
        # With what its fixtures took before and after it.
        seconds = float(case.get("time", 0))
        name = case.get("classname", "")
        tests[f"{name}::{case.get('name')}"] += seconds
        # Without the classes in it.
        modules[".".join(part for part in name.split(".") if not part[:1].isupper())] += seconds
    for what, times in ("modules", modules), ("tests", tests):
        print(f"== slowest {_SLOWEST} of {len(times)} {what}")
        for name, seconds in sorted(times.items(), key=lambda item: item[1], reverse=True)[:_SLOWEST]:
            print(f"{seconds:7.1f} s  {name}")


def _idle() -> tuple[int, int]:
    """Ticks in which CPUs of the host were idle, and ticks of all CPUs, since the host began."""
    words = Path("/proc/stat").read_text().split(maxsplit=9)
    ticks = [int(word) for word in words[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def main() -> int:
    more = sys.argv[1:]
    begun = time.monotonic()
    idle, of_all = _idle()
    # The tests start Python some hundred times: without bytecode each start compiles the daemon, and pytest each test.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if more[:1] == ["--check"]:
            statuses = _together(folder, {"lint": _LINT, **_lots(folder, _CHECK, more[1:])})
        else:
            with _building_tools():
                statuses = _together(folder, _lots(folder, _LOTS, more))
            print("== alone", flush=True)
            statuses.append(subprocess.run(_pytest(folder / "alone.xml", _ALONE, *more), check=False).returncode)
        _print_slowest(sorted(folder.glob("*.xml")))
    idle_now, of_all_now = _idle()
    share = (idle_now - idle) / (of_all_now - of_all)
    print(f"== {time.monotonic() - begun:.0f} s, the CPUs were idle for {share:.0%} of it", flush=True)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
