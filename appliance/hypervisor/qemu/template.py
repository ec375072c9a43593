"""Templates: the state of a machine that booted once. Other machines are restored from it, with memory copied on write.

On disk a template is a folder named by its key, with `ram`, `state` and `manifest.json`, which holds their digests. The folder is
written under another name and renamed when it is complete. In memory a template is two sealed memfds (fcntl(2), F_SEAL_WRITE):
every clone maps the first privately, so that a clone cannot change another clone, even if its QEMU is compromised.
"""

import contextlib
import fcntl
import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from appliance.hypervisor.qemu.files import check_owner, copy_sparse
from appliance.store.sparse import copy_holes

log = logging.getLogger(__name__)

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
# Templates on disk. Each takes the memory that its guest has touched, some 100 MB.
_MOST_ON_DISK = 6


@dataclass(slots=True)
class Template:
    """Open descriptors of the machine's memory and of the state of its devices. `silent`: restored guests that did not answer."""

    key: str
    memory: int
    state: int
    silent: int = 0

    def close(self) -> None:
        os.close(self.memory)
        os.close(self.state)

    def open_state(self) -> int:
        """Open the state with a file offset of its own, for one clone."""
        return os.open(f"/proc/self/fd/{self.state}", os.O_RDONLY | os.O_CLOEXEC)

    def seal(self) -> None:
        """Forbid writes from now on. OSError (EBUSY) while a process has a file mapped for writing."""
        for fd in (self.memory, self.state):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def copy_memory(source: int) -> int:
    """Copy the memory for one clone with shares: virtiofsd maps its memory, so it cannot be copied on write. Blocks."""
    memory = os.memfd_create("vch-ram", os.MFD_CLOEXEC)
    try:
        copy_holes(source, memory)
    except BaseException:
        os.close(memory)
        raise
    return memory


def blank(key: str, memory_mib: int) -> Template:
    """Empty files for a new template."""
    memory = os.memfd_create("vch-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, memory_mib << 20)
    return Template(key, memory, os.memfd_create("vch-state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))


class TemplateFolder:
    """Templates on disk, below one folder. All methods block."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def holds(self, key: str) -> bool:
        """Whether there is a template, which may be damaged."""
        return (self._root / key).exists()

    def load(self, key: str) -> Template | None:
        """Load and verify a template; None when there is none. A damaged template is removed."""
        folder = self._root / key
        if not folder.exists():
            return None
        template: Template | None = None
        try:
            check_owner(folder)
            manifest = json.loads((folder / "manifest.json").read_bytes())
            template = blank(key, 0)
            for name, fd in (("ram", template.memory), ("state", template.state)):
                with open(folder / name, "rb") as file:
                    if copy_sparse(file.fileno(), fd) != manifest[name]:
                        raise ValueError(f"the digest of {name} differs")
            template.seal()
            os.utime(folder)
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("template %s is not used: %s", key, error)
            if template is not None:
                template.close()
            self.remove(key)
            return None
        return template

    def save(self, template: Template) -> None:
        """Write a template, whole or not at all. OSError when the disk is full."""
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = self._root / f".{template.key}.{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir(mode=0o700)
            manifest = {}
            for name, source in (("ram", template.memory), ("state", template.state)):
                target = os.open(partial / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                try:
                    manifest[name] = copy_sparse(source, target)
                    os.fsync(target)
                finally:
                    os.close(target)
            (partial / "manifest.json").write_text(json.dumps(manifest))
            self.remove(template.key)
            partial.rename(self._root / template.key)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._collect()

    def remove(self, key: str) -> None:
        shutil.rmtree(self._root / key, ignore_errors=True)

    def _collect(self) -> None:
        """Remove the least recently used templates, and incomplete templates of processes that have ended."""
        found = []
        for folder in self._root.iterdir():
            with contextlib.suppress(OSError):
                if folder.name.startswith("."):
                    if not Path("/proc", folder.name.rpartition(".")[2]).exists():
                        shutil.rmtree(folder, ignore_errors=True)
                else:
                    found.append((folder.stat().st_mtime, folder))
        for _, folder in sorted(found)[:-_MOST_ON_DISK]:
            shutil.rmtree(folder, ignore_errors=True)
