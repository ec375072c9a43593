"""Run a function of a test module in a process of its own, in new namespaces if need be: it may reap, fork and mount."""

import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@functools.cache
def _problem(namespaces: tuple[str, ...]) -> str:
    """Why this machine cannot make these namespaces; "" when it can."""
    done = subprocess.run(["unshare", *namespaces, "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


def run_isolated(function: Callable[..., None], *arguments: str, namespaces: tuple[str, ...] = ()) -> None:
    """Call a module's function with strings; `namespaces` are options of unshare(1). Skips where these are not allowed."""
    command = [
        sys.executable,
        "-c",
        "import importlib, sys; m, f, *a = sys.argv[1:]; getattr(importlib.import_module(m), f)(*a)",
    ]
    if namespaces:
        if problem := _problem(namespaces):
            pytest.skip(problem)
        command = ["unshare", *namespaces, *command]
    done = subprocess.run(
        [*command, function.__module__, function.__name__, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
