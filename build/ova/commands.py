"""Runs a program of the build."""

import subprocess
import sys
from pathlib import Path


def run(
    *command: str, cwd: Path | None = None, environment: dict[str, str] | None = None, given: str | None = None
) -> str:
    """The standard output of a program, which gets `given` as its input. Ends this program when the other one fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, input=given, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
