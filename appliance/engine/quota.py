"""The storage quota (`--storage-quota`, as in vic-machine): how much space images and containers may take together."""

from collections.abc import Awaitable, Callable

from appliance.errors import Unavailable


class Quota:
    """`limit`: bytes, 0 for no quota. Existing data above the limit stays, but nothing is added."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._uses: list[Callable[[], Awaitable[int]]] = []

    def count(self, use: Callable[[], Awaitable[int]]) -> None:
        """Count the bytes that `use` returns, too."""
        self._uses.append(use)

    async def admit(self, more: int = 0) -> None:
        """Check that `more` bytes fit into the quota. Unavailable if not."""
        if not self._limit:
            return
        used = await self._used()
        if used + more > self._limit or used == self._limit:
            raise Unavailable(
                f"storage quota exceeded: {_sized(used)} of {_sized(self._limit)} are used"
                + (f", and {_sized(more)} more are needed" if more else "")
            )

    async def room(self) -> int | None:
        """The bytes that may be added. None without a quota."""
        return max(0, self._limit - await self._used()) if self._limit else None

    async def _used(self) -> int:
        return sum([await use() for use in self._uses])

    async def facts(self) -> dict[str, str]:
        """For `docker info`."""
        if not self._limit:
            return {}
        return {"Storage quota": f"{_sized(await self._used())} of {_sized(self._limit)}"}


def _sized(count: int) -> str:
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.4g} {unit}"
    return f"{count} B"
