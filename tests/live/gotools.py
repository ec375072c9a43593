"""Programs for tests that Go's module proxy has, built once into the cache."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path


def built(module: str, version: str, package: str, name: str) -> Path | None:
    """The program of a package of `module`; None without Go."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"vch/tools/{name}-{version}"
    program = cache / name
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        return None
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # A module of our own needs it: with `go install` its own exclusions would stand in the way.
        for command in (
            ["mod", "init", "tools"],
            ["get", f"{module}@v{version}"],
            ["build", "-mod=mod", "-trimpath", "-ldflags", "-s -w", "-o", str(cache / f"{name}.part"), package],
        ):
            subprocess.run([go, *command], cwd=folder, check=True, capture_output=True)
    (cache / f"{name}.part").rename(program)
    return program
