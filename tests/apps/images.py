"""Images of Debian's packages, and of what stands in `files/`. Root file systems are cached by what they are made of."""

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from build.ova.rootfs import archive_state, sources
from tests.live.daemon import Daemon

_FILES = Path(__file__).with_name("files")
_OPTIONS = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("locale", "info", "doc")]


@dataclass(frozen=True, slots=True)
class App:
    """An image: Debian's `packages`, `files` (their names in the folder `files`) in /usr/local/bin, `changes` as in a Dockerfile.

    `hooks` are shell commands that run in the root file system when it is made, `options` further options of mmdebstrap.
    """

    name: str
    packages: tuple[str, ...]
    changes: tuple[str, ...]
    files: tuple[str, ...] = ()
    hooks: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def imported(daemon: Daemon, app: App) -> None:
    """Make the image of `app` in this daemon, by `docker import`."""
    changes = [part for change in app.changes for part in ("--change", change)]
    daemon.docker("import", *changes, str(_root_of(app)), app.name, timeout=600, check=True)


def _root_of(app: App) -> Path:
    contents = [(_FILES / name).read_text() for name in app.files]
    options = [*_OPTIONS, *app.options]
    recipe = json.dumps([app.packages, app.hooks, app.files, contents, options, archive_state()])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vch/apps"
    target = folder / f"{app.name}-{hashlib.sha256(recipe.encode()).hexdigest()[:24]}.tar"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}")
    hooks = [f"--customize-hook=copy-in {_FILES / name} /usr/local/bin" for name in app.files]
    hooks += [f'--customize-hook=chroot "$1" sh -ec {_quoted(hook)}' for hook in app.hooks]
    command = ["mmdebstrap", "--format=tar", "--variant=minbase", *options, *hooks]
    command += [f"--include={','.join(app.packages)}", "bookworm", str(partial), "-"]
    made = subprocess.run(command, input=sources(), capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-4000:]
    for old in folder.glob(f"{app.name}-*.tar"):
        old.unlink()
    partial.rename(target)
    return target


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
