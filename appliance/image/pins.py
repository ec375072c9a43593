"""Layers that must stay although no image has them yet: a pull, a load or a build is about to make an image of them."""

from collections import Counter


class PinCounts:
    """How many holders have pinned each layer."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def holds(self, diff_id: str) -> bool:
        """Whether any holder has pinned the layer."""
        return self._counts[diff_id] > 0

    def add(self, diff_id: str) -> None:
        self._counts[diff_id] += 1

    def release(self, diff_id: str) -> None:
        self._counts[diff_id] -= 1
        if self._counts[diff_id] <= 0:
            del self._counts[diff_id]


class Pins:
    """The layers that one holder has pinned: one after the other by `add`, and all released together. See ImageStore.pins."""

    def __init__(self, counts: PinCounts) -> None:
        self._counts = counts
        self._held: dict[str, None] = {}

    @property
    def held(self) -> list[str]:
        """The diff IDs, in the order in which they were pinned."""
        return list(self._held)

    def add(self, diff_id: str) -> None:
        """Keep a layer until the release. A layer that is held already is not counted twice."""
        if diff_id not in self._held:
            self._held[diff_id] = None
            self._counts.add(diff_id)

    def release(self) -> list[str]:
        """Let go of all layers, and return their diff IDs."""
        released = list(self._held)
        self._held.clear()
        for diff_id in released:
            self._counts.release(diff_id)
        return released
