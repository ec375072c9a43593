"""The patterns of a `.dockerignore` file (moby/patternmatcher v0.6.1: patternmatcher.go, ignorefile/ignorefile.go). Pure.

A pattern becomes an expression of RE2, whose time is linear in the path.
"""

import posixpath
import re
from collections.abc import Iterable

from appliance.container.expressions import compile_expression
from appliance.errors import InvalidParameter

MAX_FILE = 1 << 20
"""Bytes of a `.dockerignore` file."""
MAX_PATTERNS = 10_000
# Go's bufio.Scanner takes no longer lines.
_MAX_LINE = 64 << 10
_BOM = "\ufeff"
# What Go's strings.TrimSpace removes.
_BLANKS = " \t\n\v\f\r\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))


def read_patterns(data: bytes) -> list[str]:
    """The patterns of the file, without comments and empty lines. InvalidParameter for a file that is too large."""
    if len(data) > MAX_FILE:
        raise InvalidParameter(f"error reading .dockerignore: more than {MAX_FILE} bytes")
    patterns = []
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n")):
        if len(line) >= _MAX_LINE:
            raise InvalidParameter("error reading .dockerignore: bufio.Scanner: token too long")
        text = line.removesuffix("\r")
        if number == 0:
            text = text.removeprefix(_BOM)
        if text.startswith("#") or not (text := text.strip(_BLANKS)):
            continue
        exception = text.startswith("!")
        text = text[1:].strip(_BLANKS) if exception else text
        if text:
            text = _clean(text)
            text = text[1:] if len(text) > 1 and text.startswith("/") else text
        patterns.append(f"!{text}" if exception else text)
    if len(patterns) > MAX_PATTERNS:
        raise InvalidParameter(f"error reading .dockerignore: more than {MAX_PATTERNS} patterns")
    return patterns


def is_ignored(path: str, patterns: Iterable[str]) -> bool:
    """Whether the last pattern that matches the path, or a folder above the path, is not an exception (MatchesOrParentMatches).

    An exception is written with `!`. InvalidParameter for a malformed pattern, whether or not it could match.
    """
    read = [_read(text) for pattern in patterns if (text := pattern.strip(_BLANKS))]
    path = _clean(path)
    if path == ".":
        return False
    folders = posixpath.dirname(path).split("/")
    names = [path, *("/".join(folders[:length]) for length in range(1, len(folders) + 1))]
    if "/" not in path:
        del names[1:]
    ignored = False
    for exception, text in read:
        if exception == ignored and _matches(text, names):
            ignored = not exception
    return ignored


def _clean(path: str) -> str:
    """Go's filepath.Clean. Python's function keeps two slashes at the start."""
    cleaned = posixpath.normpath(path)
    return cleaned[1:] if cleaned.startswith("//") else cleaned


def _read(text: str) -> tuple[bool, str]:
    """Whether a pattern is an exception, and the pattern without its mark."""
    text = _clean(text)
    exception = text.startswith("!")
    if text == "!":
        raise InvalidParameter('illegal exclusion pattern: "!"')
    text = text[1:] if exception else text
    _check(text)
    return exception, text


def _matches(text: str, names: list[str]) -> bool:
    # Nothing keeps the expression: thousands of large ones would take gigabytes.
    expression = compile_expression(_expression(text))
    if expression is None:
        raise _malformed()
    return any(expression.search(name) for name in names)


def _malformed() -> InvalidParameter:
    return InvalidParameter("syntax error in pattern")


def _check(text: str) -> None:
    """Refuse what Go's filepath.Match finds malformed: a class without an end, a backslash at the end."""
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
            if at >= len(text):
                raise _malformed()
        elif text[at] == "[":
            at = _end_of_class(text, at + 1)
        at += 1


def _end_of_class(text: str, at: int) -> int:
    """The place of the bracket that ends a class (Go's path/filepath/match.go matchChunk)."""
    if text[at : at + 1] == "^":
        at += 1
    first = True
    while first or text[at] != "]":
        at = _after_character(text, at)
        if text[at] == "-":
            at = _after_character(text, at + 1)
        first = False
    return at


def _after_character(text: str, at: int) -> int:
    """The place behind a character of a class, where something has to follow."""
    if at >= len(text) or text[at] in "-]":
        raise _malformed()
    at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise _malformed()
    return at


def _expression(text: str) -> str:
    """The expression of a pattern (Pattern.compile). `**` means any number of folders; `*` and `?` stop at a slash."""
    special = re.search(r"[*?\[\]\\]", text)
    if special is None:
        return rf"\A{re.escape(text)}\z"
    if text.endswith("**") and special.start() == len(text) - 2:
        return rf"\A{re.escape(text[:-2])}"
    if text.startswith("**") and not re.search(r"[*?\[\]\\]", text[2:]):
        rest = text[2:]
        return rf"{re.escape(rest)}\z" + (rf"|\A{re.escape(rest[1:])}\z" if rest.startswith("/") else "")
    found, at = "^", 0
    while at < len(text):
        char, after = text[at], text[at + 1 : at + 2]
        at += 1
        match char:
            case "*" if after == "*":
                at += 1
                at += text[at : at + 1] == "/"
                found += ".*" if at >= len(text) else "(.*/)?"
            case "*":
                found += "[^/]*"
            case "?":
                found += "[^/]"
            case "\\":
                # As in moby, an escaped letter may mean a class of RE2.
                found += f"\\{after}"
                at += 1
            case "." | "+" | "(" | ")" | "|" | "{" | "}" | "$":
                found += f"\\{char}"
            case _:
                found += char
    return f"{found}$"
