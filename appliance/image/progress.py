"""Lines of progress of a pull or a push, as the API sends them (moby pkg/jsonmessage)."""

from collections.abc import Awaitable, Callable

import msgspec
from msgspec import UNSET, UnsetType


class ProgressDetail(msgspec.Struct):
    """Bytes so far and in all. Without both, clients show the line's status alone."""

    current: int | UnsetType = UNSET
    total: int | UnsetType = UNSET


class PushResult(msgspec.Struct, rename="pascal"):
    """What a push has made in the registry; clients read it from the last line."""

    tag: str
    digest: str
    size: int


class Progress(msgspec.Struct, rename="camel", kw_only=True):
    """One line. `id` names the layer that the line is about."""

    status: str | UnsetType = UNSET
    progress_detail: ProgressDetail | UnsetType = UNSET
    id: str | UnsetType = UNSET
    aux: PushResult | UnsetType = UNSET

    @property
    def is_transient(self) -> bool:
        """Whether a later line of the same layer replaces this one: it only counts bytes."""
        return self.progress_detail is not UNSET and self.progress_detail.current is not UNSET


Report = Callable[[Progress], Awaitable[None]]
"""Takes one line of progress."""


def layer_progress(
    status: str, layer: str, current: int | UnsetType = UNSET, total: int | UnsetType = UNSET
) -> Progress:
    """A line about one layer, named by the first twelve digits of a digest."""
    short = layer.removeprefix("sha256:")[:12]
    return Progress(status=status, progress_detail=ProgressDetail(current, total), id=short)
