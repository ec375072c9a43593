"""Programs that Go's module proxy has, or whose parts it has, compiled once into the cache."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_BUILDKIT = "github.com/moby/buildkit", "0.34.2"
BUILDKIT_VERSION = _BUILDKIT[1]
# Without it BuildKit would report v0.0.0+unknown.
_BUILDKIT_LINK_FLAGS = f"-X {_BUILDKIT[0]}/version.Version=v{_BUILDKIT[1]}"


def buildkitd() -> Path | None:
    """BuildKit's daemon; None without Go. It needs runc to execute a RUN."""
    return _of_buildkit("buildkitd")


def buildctl() -> Path | None:
    """BuildKit's own client; None without Go."""
    return _of_buildkit("buildctl")


def _of_buildkit(name: str) -> Path | None:
    # The suffix tells the programs from those that were built without these flags.
    return go_program(name, *_BUILDKIT, f"{_BUILDKIT[0]}/cmd/{name}", suffix="-named", link_flags=_BUILDKIT_LINK_FLAGS)


def go_program(
    name: str,
    module: str,
    version: str,
    package: str,
    *,
    source: Path | None = None,
    suffix: str = "",
    link_flags: str = "",
) -> Path | None:
    """The program `name`, of `package` in `module`, or of our own `source` with `module`, if not "", as its library."""
    tools = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch/tools"
    cache = tools / f"{name}-{version}{suffix}"
    program = cache / name
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        return None
    cache.mkdir(parents=True, exist_ok=True)
    # The gate builds beside the tests: a test that needs the program waits until that build is done.
    with open(tools / f".{cache.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _compile(go, module, version, package, program, source, link_flags)
    return program


def _compile(
    go: str, module: str, version: str, package: str, program: Path, source: Path | None, link_flags: str
) -> None:
    unfinished = program.with_suffix(".part")
    with tempfile.TemporaryDirectory() as folder:
        if source is not None:
            shutil.copy(source, folder)
        # Without cgo a program needs no shared libraries, as the images of some of them have none.
        env = os.environ | {"CGO_ENABLED": "0"}
        # `go install` would refuse a module whose own go.mod excludes versions; a module of our own that needs it may be built.
        for command in (
            ["mod", "init", "tools"],
            *([["get", f"{module}@v{version}"]] if module else []),
            ["build", "-mod=mod", "-trimpath", "-ldflags", f"-s -w {link_flags}", "-o", str(unfinished), package],
        ):
            done = subprocess.run([go, *command], cwd=folder, env=env, check=False, capture_output=True, text=True)
            if done.returncode:
                raise AssertionError(f"go {' '.join(command)}: {done.stderr}")
    unfinished.rename(program)
