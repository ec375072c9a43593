"""Writable disks in memory, for tests of the rooms above. `fake` has the machines."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.hypervisor.disks import DiskKind, Disks


@dataclass(slots=True)
class FakeDisks(Disks):
    """Disks in memory, by path: how large each disk is."""

    sizes: dict[Path, int] = field(default_factory=dict)
    stores: Collection[str] = ()
    # What `inherited` returns.
    found: list[tuple[str, str]] = field(default_factory=list)

    async def create(self, path: Path, kind: DiskKind) -> None:
        self.sizes[path] = kind.size

    async def remove(self, path: Path) -> None:
        self.sizes.pop(path, None)

    async def used(self, path: Path) -> int:
        return self.sizes.get(path, 0)

    async def forget(self, path: Path) -> None:
        pass

    async def inherited(self) -> list[tuple[str, str]]:
        return self.found

    async def sweep(self, known: Collection[Path], files: Collection[Path], stacks: Iterable[Sequence[Path]]) -> None:
        self.sizes = {path: size for path, size in self.sizes.items() if path in known}
