"""Programs for tests that Go's module proxy has, or whose parts it has, built once into the cache.

python -m tests.live.gotools      build all that are missing, as the gate does beside its tests
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_GOVMOMI = "github.com/vmware/govmomi", "0.56.0"
_COMPOSE = "github.com/docker/compose/v2", "2.40.3"
_COMPOSE_5 = "github.com/docker/compose/v5", "5.6.0"
_ACT = "github.com/nektos/act", "0.2.89"
_PATTERNMATCHER = "github.com/moby/patternmatcher", "0.6.1"
_H2SPEC = "github.com/summerwind/h2spec", "2.2.1+incompatible"
_BUILDKIT = "github.com/moby/buildkit", "0.34.2"
_BUILDX = "github.com/docker/buildx", "0.38.2"


def compose() -> Path | None:
    """docker compose as a program of its own; None without Go."""
    return _build("docker-compose", *_COMPOSE, f"{_COMPOSE[0]}/cmd")


def compose_5() -> Path | None:
    """The fifth version of docker compose as a program of its own; None without Go."""
    return _build("docker-compose", *_COMPOSE_5, f"{_COMPOSE_5[0]}/cmd")


def act() -> Path | None:
    """The program that runs GitHub's workflows in containers; None without Go."""
    return _build("act", *_ACT, _ACT[0])


def h2spec() -> Path | None:
    """The conformance suite for HTTP/2; None without Go."""
    return _build("h2spec", *_H2SPEC, f"{_H2SPEC[0]}/cmd/h2spec")


def buildkitd() -> Path | None:
    """BuildKit's daemon; None without Go. It needs runc to execute a RUN."""
    return _build("buildkitd", *_BUILDKIT, f"{_BUILDKIT[0]}/cmd/buildkitd")


def buildctl() -> Path | None:
    """BuildKit's own client; None without Go."""
    return _build("buildctl", *_BUILDKIT, f"{_BUILDKIT[0]}/cmd/buildctl")


def buildx() -> Path | None:
    """docker buildx as a program of its own; None without Go."""
    # Docker Compose refuses a buildx that reports no version.
    version = f"-X {_BUILDX[0]}/version.Version=v{_BUILDX[1]}"
    return _build("docker-buildx", *_BUILDX, f"{_BUILDX[0]}/cmd/buildx", link_flags=version)


def ryuk() -> Path | None:
    """Our stand-in for Ryuk of testcontainers; None without Go. Go's module proxy does not have Ryuk."""
    source = Path(__file__).with_name("ryuk.go")
    return _build("ryuk", "", hashlib.sha256(source.read_bytes()).hexdigest()[:12], ".", source=source)


def dockerignore() -> Path | None:
    """A program that answers with moby's matcher of `.dockerignore` patterns; None without Go."""
    source = Path(__file__).with_name("dockerignore.go")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return _build("dockerignore", *_PATTERNMATCHER, ".", source=source, suffix=f"-{digest}")


def vcsim() -> Path | None:
    """VMware's simulator of vCenter and ESXi; None without Go."""
    return _of_govmomi("vcsim")


def govc() -> Path | None:
    """govmomi's client, as far as VMs go; None without Go."""
    return _of_govmomi("govc")


def govmomi() -> Path | None:
    """The folder of govmomi's source, as Go's module proxy has it; None without Go."""
    go = shutil.which("go")
    if go is None:
        return None
    module, version = _GOVMOMI
    done = subprocess.run(
        [go, "mod", "download", "-json", f"{module}@v{version}"], check=False, capture_output=True, text=True
    )
    answer = json.loads(done.stdout or "{}")
    if done.returncode:
        raise AssertionError(f"go mod download: {answer.get('Error') or done.stderr}")
    return Path(answer["Dir"])


def _of_govmomi(name: str) -> Path | None:
    source = Path(__file__).with_name("vsphere") / f"{name}.go"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return _build(name, *_GOVMOMI, ".", source=source, suffix=f"-{digest}")


def _build(
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


def main() -> None:
    # The first tests need the simulator; compose takes longest.
    for tool in (vcsim, h2spec, govc, compose):
        tool()


if __name__ == "__main__":
    main()
