"""Asking again what a registry could not answer for now."""

import trio

from appliance.registry import ComeBackLater

_ATTEMPTS = 5
_FIRST_SECONDS, _MOST_SECONDS = 0.5, 30.0


class Attempts:
    """Counts failures in a row."""

    def __init__(self) -> None:
        self._failed = 0

    def succeeded(self) -> None:
        """Something came: the next failure is the first again."""
        self._failed = 0

    async def failed(self, error: ComeBackLater) -> None:
        """Wait until it makes sense to ask again; raises the error when it does not any more."""
        self._failed += 1
        if self._failed >= _ATTEMPTS:
            raise error
        wait = _FIRST_SECONDS * 2 ** (self._failed - 1)
        if error.after is not None:
            if error.after > _MOST_SECONDS:
                raise error
            wait = max(wait, error.after)
        await trio.sleep(wait)
