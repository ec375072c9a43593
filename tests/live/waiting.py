"""Wait for a condition."""

import time
from collections.abc import Callable


def until(test: Callable[[], bool], seconds: float = 20, what: str = "it did not come true") -> None:
    """Return when `test` is true; AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
