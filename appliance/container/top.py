"""`docker top`: the output of ps, reduced to the container's processes. Pure."""

import re

from appliance.errors import InvalidParameter, VchError

DEFAULT = "-ef"
# `ps -o x=PID` would name another column PID (moby daemon/top_unix.go, whose expression begins with `\s+`: that takes Python quadratic
# time for many blanks).
_RENAMED = re.compile(r"\s([^\s]*)=\s*(PID[^\s]*)")


def ps_arguments(text: str) -> list[str]:
    """The arguments for ps. InvalidParameter in Docker's words for arguments that would hide the pids."""
    text = text or DEFAULT
    for name, title in _RENAMED.findall(text):
        if name != "pid":
            raise InvalidParameter(f'specifying "{name}={title}" is not allowed')
    return text.split()


def parse_ps(output: str, pids: set[int]) -> tuple[list[str], list[list[str]]]:
    """(titles, one row of fields for each process). VchError when the output has no pids."""
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise VchError("Couldn't find PID field in ps output")
    at = titles.index("PID")
    rows = []
    follows = False
    for line in lines[1:]:
        fields = line.split()
        if not fields:
            continue
        if fields[at] == "-":
            # A thread of the process above (ps -m).
            belongs = follows
        elif fields[at].isdigit():
            belongs = follows = int(fields[at]) in pids
        else:
            raise VchError(f"Unexpected pid '{fields[at]}'")
        if belongs:
            last = len(titles) - 1
            rows.append([*fields[:last], " ".join(fields[last:])])
    return titles, rows
