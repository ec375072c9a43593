"""Patterns that clients send: regular expressions as moby matches names (RE2), and the globs of `reference` (Go's path.Match).

A pattern that is too large when compiled is malformed. Threads of their own do the work, for a bounded time.
"""

import functools
from collections.abc import Iterable, Iterator

import re2
import trio

from appliance.container.expressions import compile_expression, search_names
from appliance.errors import InvalidParameter

_threads = trio.CapacityLimiter(2)


async def matching_names(patterns: list[str], names: Iterable[str]) -> set[str]:
    """The names that contain a match of a pattern, or all names if there are no patterns. InvalidParameter when that takes too long.

    As in moby, a malformed pattern is no error and matches only a name that equals it.
    """
    given = set(names)
    if not patterns:
        return given
    return await trio.to_thread.run_sync(_matching_names, patterns, given, limiter=_threads)


async def matching_globs(globs: list[str], names: Iterable[str]) -> set[str]:
    """The names that a glob matches as a whole; `*` and `?` match no slash.

    InvalidParameter for a malformed glob, and when that takes too long.
    """
    return await trio.to_thread.run_sync(_matching_globs, globs, set(names), limiter=_threads)


def _matching_names(patterns: list[str], names: set[str]) -> set[str]:
    found = names.intersection(patterns)
    return found | _search([pattern for pattern in patterns if compile_expression(pattern) is not None], names - found)


def _matching_globs(globs: list[str], names: set[str]) -> set[str]:
    expressions = [f"^(?:{_expression(glob)})$" for glob in globs]
    if any(compile_expression(expression) is None for expression in expressions):
        raise InvalidParameter("syntax error in pattern")
    return _search(expressions, names)


def _search(expressions: list[str], names: set[str]) -> set[str]:
    """The names in which an expression is found. All expressions are well formed."""
    joined = None
    # An unclosed \Q of an expression would quote the expressions behind it.
    if not any("\\Q" in one for one in expressions):
        joined = compile_expression("|".join(f"(?:{one})" for one in expressions)) if expressions else None
    # Together the expressions may be too large.
    compiled = [joined] if joined is not None else map(compile_expression, expressions)
    return search_names(compiled, names)


_escaped = functools.lru_cache(maxsize=256)(re2.escape)
# An expression that is malformed.
_MALFORMED = "["


def _expression(glob: str) -> str:
    """The glob as a regular expression."""
    out = []
    rest = iter(glob)
    for char in rest:
        match char:
            case "*":
                out.append("[^/]*")
            case "?":
                out.append("[^/]")
            case "\\":
                following = next(rest, "")
                out.append(_escaped(following) if following else _MALFORMED)
            case "[":
                out.append(_class(rest))
            case _:
                out.append(_escaped(char))
    return "".join(out)


def _class(rest: Iterator[str]) -> str:
    """The class of characters behind its `[`. In a glob a class must not be empty, and `-` stands only between two characters."""
    ranges: list[str] = []
    char = next(rest, "")
    negation = "^" if char == "^" else ""
    if negation:
        char = next(rest, "")
    while char != "]" or not ranges:
        low = _member(char, rest)
        high, char = low, next(rest, "")
        if char == "-":
            high, char = _member(next(rest, ""), rest), next(rest, "")
        if not low or not high or low > high:
            return _MALFORMED
        ranges.append(f"\\x{{{ord(low):x}}}-\\x{{{ord(high):x}}}")
    return f"[{negation}{''.join(ranges)}]"


def _member(char: str, rest: Iterator[str]) -> str:
    """One character of a class, "" for a malformed class."""
    if char == "\\":
        return next(rest, "")
    return "" if char in ("-", "]") else char
