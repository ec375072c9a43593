"""Programs for tests that Go's module proxy has, or whose parts it has, built once into the cache.

python -m tests.live.gotools      build all that are missing, as the gate does beside its tests
"""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

from build.go_programs import buildctl, buildkitd, go_program

_GOVMOMI = "github.com/vmware/govmomi", "0.56.0"
_COMPOSE = "github.com/docker/compose/v2", "2.40.3"
_COMPOSE_5 = "github.com/docker/compose/v5", "5.6.0"
_ACT = "github.com/nektos/act", "0.2.89"
_PATTERNMATCHER = "github.com/moby/patternmatcher", "0.6.1"
_H2SPEC = "github.com/summerwind/h2spec", "2.2.1+incompatible"
_BUILDX = "github.com/docker/buildx", "0.38.2"


__all__ = [
    "act",
    "buildctl",
    "buildkitd",
    "buildx",
    "compose",
    "compose_5",
    "dockerignore",
    "govc",
    "govmomi",
    "h2spec",
    "ryuk",
    "vcsim",
]


def compose() -> Path | None:
    """docker compose as a program of its own; None without Go."""
    return go_program("docker-compose", *_COMPOSE, f"{_COMPOSE[0]}/cmd")


def compose_5() -> Path | None:
    """The fifth version of docker compose as a program of its own; None without Go."""
    return go_program("docker-compose", *_COMPOSE_5, f"{_COMPOSE_5[0]}/cmd")


def act() -> Path | None:
    """The program that runs GitHub's workflows in containers; None without Go."""
    return go_program("act", *_ACT, _ACT[0])


def h2spec() -> Path | None:
    """The conformance suite for HTTP/2; None without Go."""
    return go_program("h2spec", *_H2SPEC, f"{_H2SPEC[0]}/cmd/h2spec")


def buildx() -> Path | None:
    """docker buildx as a program of its own; None without Go."""
    # Docker Compose refuses a buildx that reports no version.
    version = f"-X {_BUILDX[0]}/version.Version=v{_BUILDX[1]}"
    return go_program("docker-buildx", *_BUILDX, f"{_BUILDX[0]}/cmd/buildx", link_flags=version)


def ryuk() -> Path | None:
    """Our stand-in for Ryuk of testcontainers; None without Go. Go's module proxy does not have Ryuk."""
    source = Path(__file__).with_name("ryuk.go")
    return go_program("ryuk", "", hashlib.sha256(source.read_bytes()).hexdigest()[:12], ".", source=source)


def dockerignore() -> Path | None:
    """A program that answers with moby's matcher of `.dockerignore` patterns; None without Go."""
    source = Path(__file__).with_name("dockerignore.go")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return go_program("dockerignore", *_PATTERNMATCHER, ".", source=source, suffix=f"-{digest}")


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
    return go_program(name, *_GOVMOMI, ".", source=source, suffix=f"-{digest}")


def main() -> None:
    # The first tests need the simulator; the last ones take longest.
    for tool in (vcsim, h2spec, govc, buildkitd, buildctl, buildx, compose):
        tool()


if __name__ == "__main__":
    main()
