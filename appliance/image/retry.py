"""Repeats requests that a registry could not answer for now."""

import trio

from appliance.registry import ComeBackLater

_ATTEMPTS = 5
_FIRST_SECONDS, _MOST_SECONDS = 0.5, 30.0


class Attempts:
    """Counts failures in a row, and waits longer after each one."""

    def __init__(self) -> None:
        self._failed = 0

    def succeeded(self) -> None:
        """The registry has answered: start to count again."""
        self._failed = 0

    async def failed(self, error: ComeBackLater) -> None:
        """Wait before the next attempt. Raises the error after too many failures, or if the registry asks for a long pause."""
        self._failed += 1
        if self._failed >= _ATTEMPTS:
            raise error
        wait = _FIRST_SECONDS * 2 ** (self._failed - 1)
        if error.after is not None:
            if error.after > _MOST_SECONDS:
                raise error
            wait = max(wait, error.after)
        await trio.sleep(wait)
