"""The code of an earlier version, from git history, with the guest that its own recipe builds."""

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]

# The commit of each released version.
COMMITS = {"0.1": "3c1e2ba5255365e5c12c655e9e7e00b8725638e3"}


@dataclass(frozen=True)
class Previous:
    """`source` is the tree; `guest` is the folder with its vmlinux and initrd."""

    source: Path
    guest: Path


@functools.cache
def previous(version: str) -> Previous | None:
    """The tree and the guest of `version`; None where git history does not have the commit (a tarball, a shallow clone)."""
    commit = _git("rev-parse", "--verify", "--quiet", f"{COMMITS[version]}^{{commit}}").strip()
    if not commit:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch/versions"
    source = cache / commit
    if not source.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".") as folder:
            tree = Path(folder, "tree")
            tree.mkdir()
            archive = subprocess.run(["git", "-C", _ROOT, "archive", commit], capture_output=True, check=True).stdout
            subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
            # Another run may have been faster.
            if not source.exists():
                tree.rename(source)
    command = [sys.executable, "build/guest/image.py"]
    guest = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True).stdout.strip()
    return Previous(source, Path(guest))


def _git(*arguments: str) -> str:
    if shutil.which("git") is None:
        return ""
    return subprocess.run(["git", "-C", _ROOT, *arguments], capture_output=True, text=True, check=False).stdout
