"""The filters of `GET /images/json` and `POST /images/prune` (moby daemon/images/image_list.go, daemon/containerd/image_list.go)."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from appliance.api.filters import Filters, parse_filters
from appliance.api.patterns import matching_globs
from appliance.api.times import parse_timestamp
from appliance.container.times import parse_rfc3339
from appliance.errors import InvalidParameter
from appliance.http import Request
from appliance.image.config import ImageConfig
from appliance.image.reference import parse_reference
from appliance.image.store import ImageRecord, ImageStore


def parse_image_filters(request: Request) -> Filters:
    """The query's `filters`, and `filter` before API 1.25, which is a glob for names. InvalidParameter names an unknown filter."""
    filters = parse_filters(request.text("filters"), "GET /images/json")
    if request.version < (1, 25) and request.text("filter") and "reference" not in filters:
        filters.add("reference", request.text("filter"))
    return filters


@dataclass(frozen=True, slots=True)
class ImageFilter:
    """`names` are the full names that `reference` selects, None for all names. `keep` tells whether an image passes the other filters."""

    names: frozenset[str] | None
    keep: Callable[[ImageRecord], bool]

    def shown(self, record: ImageRecord) -> ImageRecord | None:
        """The image with the names that the list shows; None for an image that the list leaves out."""
        if not self.keep(record):
            return None
        if self.names is None:
            return record
        shown = ImageRecord(
            record.id,
            record.config,
            [name for name in record.references if name in self.names],
            [name for name in record.digests if name in self.names],
            record.sizes,
            record.tagged,
            record.parent,
        )
        return shown if shown.references or shown.digests else None


async def image_filter(filters: Filters, store: ImageStore) -> ImageFilter:
    """The filter for a list or a prune. InvalidParameter or NotFound for values that their filter does not have."""
    dangling = filters.boolean("dangling", False) if "dangling" in filters else None
    before = [created_ns(store.config(store.get(ref).id)) for ref in filters.values("before")]
    since = [created_ns(store.config(store.get(ref).id)) for ref in filters.values("since")]
    before += [_until(text) for text in filters.values("until")]

    def keep(record: ImageRecord) -> bool:
        config = store.config(record.id)
        return (
            _passes_dangling(record, dangling)
            and _passes_labels(filters, config.config.labels or {})
            and _passes_times(created_ns(config), before, since)
        )

    return ImageFilter(await _selected_names(filters, store), keep)


def created_ns(config: ImageConfig) -> int | None:
    """When an image was created, unix ns; None for an image that does not say so."""
    return None if config.created is None else parse_rfc3339(config.created)


def _until(text: str) -> int:
    try:
        return parse_timestamp(text, time.time_ns())
    except InvalidParameter as error:
        raise InvalidParameter(f"invalid value for 'until' filter: {error}") from error


def _passes_dangling(record: ImageRecord, wanted: bool | None) -> bool:
    """An image with digests and without tags is dangling, and passes `dangling=false`, too."""
    if wanted is None:
        return True
    return not record.references if wanted else bool(record.references or record.digests)


def _passes_times(created: int | None, before: list[int | None], since: list[int | None]) -> bool:
    """A bound that is None holds for no image that was created: moby ignores it."""
    if created is None:
        return not before and not since
    return all(at is None or created < at for at in before) and all(at is None or created > at for at in since)


def _passes_labels(filters: Filters, labels: Mapping[str, str]) -> bool:
    """As moby's image store of containerd: each `label!` alone excludes an image, and `name!=value` under `label` does, too."""
    for key in ("label", "label!"):
        for item in filters.values(key):
            name, equals, value = item.partition("=")
            wanted = (key == "label") != name.endswith("!")
            name = name.removesuffix("!")
            if (name in labels and (not equals or labels[name] == value)) != wanted:
                return False
    return True


async def _selected_names(filters: Filters, store: ImageStore) -> frozenset[str] | None:
    """The full names that a pattern of `reference` matches, in one of the four ways to write a name."""
    globs = filters.values("reference")
    if not globs:
        return None
    spellings: dict[str, tuple[str, ...]] = {}
    for record in store.all():
        for name in (*record.references, *record.digests):
            reference = parse_reference(name)
            spellings[name] = (str(reference), reference.familiar_name, name, reference.name)
    found = await matching_globs(globs, (text for texts in spellings.values() for text in texts))
    return frozenset(name for name, texts in spellings.items() if not found.isdisjoint(texts))
