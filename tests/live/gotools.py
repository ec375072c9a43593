"""Programs for tests that Go's module proxy has, or whose parts it has, built once into the cache."""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

_GOVMOMI = "github.com/vmware/govmomi", "0.56.0"


def built(module: str, version: str, package: str, name: str) -> Path | None:
    """The program of a package of `module`; None without Go."""
    return _build(f"{name}-{version}", name, module, version, package)


def vcsim() -> Path | None:
    """VMware's simulator of vCenter and ESXi; None without Go."""
    return _of_govmomi("vcsim")


def govc() -> Path | None:
    """govmomi's client, as far as machines go; None without Go."""
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
    told = json.loads(done.stdout or "{}")
    if done.returncode:
        raise AssertionError(f"go mod download: {told.get('Error') or done.stderr}")
    return Path(told["Dir"])


def _of_govmomi(name: str) -> Path | None:
    source = Path(__file__).with_name("vsphere") / f"{name}.go"
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    return _build(f"{name}-{_GOVMOMI[1]}-{digest}", name, *_GOVMOMI, ".", source)


def _build(key: str, name: str, module: str, version: str, package: str, source: Path | None = None) -> Path | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / f"vch/tools/{key}"
    program = cache / name
    if program.exists():
        return program
    go = shutil.which("go")
    if go is None:
        return None
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if source is not None:
            shutil.copy(source, folder)
        # A module of our own needs it: with `go install` its own exclusions would stand in the way.
        for command in (
            ["mod", "init", "tools"],
            ["get", f"{module}@v{version}"],
            ["build", "-mod=mod", "-trimpath", "-ldflags", "-s -w", "-o", str(cache / f"{name}.part"), package],
        ):
            done = subprocess.run([go, *command], cwd=folder, check=False, capture_output=True, text=True)
            if done.returncode:
                raise AssertionError(f"go {' '.join(command)}: {done.stderr}")
    (cache / f"{name}.part").rename(program)
    return program
