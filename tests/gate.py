"""All tests, in two lots beside each other, which take about as long.

What counts the whole host's memory comes after them, alone. Prints each lot as it ends; the exit status is that of all.

    python -m tests.gate [pytest's arguments]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

_ALONE = "tests/live/test_leaks.py"
_VSPHERE = "tests/live/vsphere"
_LOTS = {
    "live": ["tests/live", f"--ignore={_ALONE}", f"--ignore={_VSPHERE}"],
    "rooms and vSphere": ["tests/appliance", "tests/build", "tests/protos", "tests/tether", _VSPHERE],
}


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


def main() -> int:
    more = sys.argv[1:]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        lots = {}
        for name, arguments in _LOTS.items():
            log = Path(folder, name.split()[0])
            with log.open("wb") as out:
                lots[name] = log, subprocess.Popen(_pytest(*arguments, *more), stdout=out, stderr=subprocess.STDOUT)
        try:
            statuses = []
            for name, (log, process) in lots.items():
                statuses.append(process.wait())
                print(f"== {name}\n{log.read_text(errors='replace')}", flush=True)
        finally:
            for _, process in lots.values():
                process.kill()
                process.wait()
    print("== alone", flush=True)
    statuses.append(subprocess.run(_pytest(_ALONE, *more), check=False).returncode)
    print(f"== {time.monotonic() - begun:.0f} s", flush=True)
    return max(statuses)


if __name__ == "__main__":
    sys.exit(main())
