"""Regular expressions that clients send. RE2 takes time that is linear in the text, whatever the expression."""

import time
from collections.abc import Iterable
from typing import Protocol

import re2

from appliance.errors import InvalidParameter

_OPTIONS = re2.Options()
_OPTIONS.max_mem = 1 << 20
_OPTIONS.never_capture = True
_OPTIONS.log_errors = False
# CPU time of one call, in seconds. A thousand names take milliseconds, unless a client wants them to take long.
_MOST_SECONDS = 2.0


class Expression(Protocol):
    """A compiled expression."""

    def search(self, text: str) -> object | None: ...


def compile_expression(text: str) -> Expression | None:
    """The compiled expression; None for one that is malformed or too large when compiled."""
    # The cache of re2 would keep the memory of 128 expressions.
    re2.purge()
    try:
        compiled: Expression = re2.compile(text, _OPTIONS)
    except (re2.error, UnicodeEncodeError):
        return None
    return compiled


def search_names(expressions: Iterable[Expression | None], names: set[str]) -> set[str]:
    """The names in which an expression is found. InvalidParameter when that takes too long; call it in a thread."""
    found: set[str] = set()
    end = time.thread_time() + _MOST_SECONDS
    for one in expressions:
        for name in names - found:
            if one is not None and one.search(name):
                found.add(name)
            if time.thread_time() > end:
                raise InvalidParameter("the patterns are too complex")
    return found
