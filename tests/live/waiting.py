"""Waiting for what comes true by itself."""

import time
from collections.abc import Callable


def until(test: Callable[[], bool], seconds: float = 20, what: str = "it did not come true") -> None:
    """Return when it is true; AssertionError when it takes longer."""
    deadline = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
