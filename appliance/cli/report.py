"""The output of a command: lines for people as the command runs, or one JSON object at its end; and the exit status."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence

from appliance.errors import VchError

# Exit statuses.
FAILED, USAGE, REFUSED, NOT_FOUND, TOO_LATE = 1, 2, 3, 4, 5
_BAR = 30


class Ended(VchError):
    """Ends a command with this exit status and text."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Report:
    """Steps and progress go to standard error, results to standard output."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._findings: dict[str, list[dict[str, str]]] = {}
        self._bar = -1

    def step(self, text: str) -> None:
        if not self._as_json:
            self._end_bar()
            print(text, file=sys.stderr, flush=True)

    def progress(self, done: int, total: int) -> None:
        """Draw a progress bar, if standard error is a terminal."""
        filled = done * _BAR // max(1, total)
        if self._as_json or filled == self._bar or not sys.stderr.isatty():
            return
        self._bar = filled
        line = f"[{'=' * filled:{_BAR}}] {done >> 20} of {total >> 20} MiB"
        print(f"\r{line}", end="", file=sys.stderr, flush=True)
        if done >= total:
            self._end_bar()

    def _end_bar(self) -> None:
        if self._bar >= 0:
            self._bar = -1
            print(file=sys.stderr)

    def finding(self, kind: str, setting: str, text: str, remedy: str) -> None:
        """Report a finding of the `kind` "problems" or "warnings", with its remedy."""
        self._findings.setdefault(kind, []).append({"setting": setting, "text": text, "remedy": remedy})
        mark = "WARNING " if kind == "warnings" else ""
        self.step(f"  {mark}{setting}: {text}" + (f"\n      {remedy}" if remedy else ""))

    def result(self, value: Mapping[str, object] | Sequence[object], lines: Sequence[str]) -> None:
        """Print the result of the command: `lines` for people, or `value` as JSON."""
        if not self._as_json:
            self._end_bar()
            print("\n".join(lines))
        elif isinstance(value, Mapping):
            print(json.dumps({**value, **self._findings}, indent=2))
        else:
            print(json.dumps(value, indent=2))

    def failure(self, text: str) -> None:
        self._end_bar()
        if self._as_json:
            print(json.dumps({"error": text, **self._findings}, indent=2))
        else:
            print(f"vch: {text}", file=sys.stderr)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, as the Docker CLI prints its lists."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    wide = shutil.get_terminal_size((200, 24)).columns
    return [
        "   ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()[: max(wide, 80)]
        for row in (head, *rows)
    ]
