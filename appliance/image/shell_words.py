"""Variables and quotes in Dockerfile instructions, as moby's classic builder expands them (buildkit frontend/dockerfile/shell). Pure."""

import json
import re
from collections.abc import Mapping

import re2

from appliance.errors import InvalidParameter

# The characters that the variables of one request may expand to, and that patterns may search: doubled variables grow exponentially.
_MOST_CHARACTERS = 1 << 20
# A match takes 4 us.
_MATCH_COST = 16
_TOO_MUCH = "the variables of the instructions expand to too much text"
_DEEPEST = 50
_SPECIAL_NAMES = "@*#?-$!"
_OPTIONS = re2.Options()
_OPTIONS.max_mem = 1 << 20
_OPTIONS.log_errors = False
# Pieces of a word, each with whether blanks in it separate words.
_Pieces = list[tuple[str, bool]]


class Expander:
    """Expands words with the variables of an environment. InvalidParameter with Docker's texts, and when the words grow too long."""

    def __init__(self, escape: str = "\\") -> None:
        self._escape = escape
        self._left = _MOST_CHARACTERS

    def word(self, source: str, variables: Mapping[str, str]) -> str:
        """The text without quotes and with the values of its variables."""
        return "".join(text for text, _ in self._expand(source, variables))

    def words(self, source: str, variables: Mapping[str, str]) -> list[str]:
        """The words of the text, split at blanks that are not quoted, also at those of values."""
        words, current = [], ""
        for text, splits in self._expand(source, variables):
            first, *rest = _split(text) if splits else [text]
            current += first
            for word in rest:
                words.append(current)
                current = word
        return [word for word in (*words, current) if word]

    def _expand(self, source: str, variables: Mapping[str, str]) -> _Pieces:
        scanner = _Scanner(source, variables, self._left, self._escape)
        pieces = scanner.scan()
        self._left -= scanner.spent
        return pieces


def _split(text: str) -> list[str]:
    """Split at each blank; a text without blanks gives one word."""
    return re.split(r"\s", text)


class _Scanner:
    """One pass over a text. `spent` counts the characters of values and of what patterns search: at most `most`."""

    def __init__(self, source: str, variables: Mapping[str, str], most: int, escape: str) -> None:
        self._source = source
        self._variables = variables
        self._most = most
        self._escape = escape
        self._at = 0
        self._depth = 0
        self.spent = 0

    def scan(self) -> _Pieces:
        """The pieces of the whole text. InvalidParameter names the text that is malformed, or says that it grows too long."""
        try:
            return self._until("", raw_escapes=False)
        except ValueError as error:
            raise InvalidParameter(
                f"failed to process {json.dumps(self._source, ensure_ascii=False)}: {error}"
            ) from error

    def _spend(self, value: str) -> str:
        """Count a value before it is copied, also into a word that is not used later. Returns the value."""
        self.spent += len(value)
        if self.spent > self._most:
            raise InvalidParameter(_TOO_MUCH)
        return value

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _next(self) -> str:
        char = self._peek()
        self._at += 1
        return char

    def _until(self, stop: str, *, raw_escapes: bool) -> _Pieces:
        """The pieces up to the character `stop`, which is consumed, or up to the end for "". ValueError without a `stop`."""
        pieces: _Pieces = []
        while char := self._next():
            if char == stop:
                return pieces
            match char:
                case "'":
                    pieces.append((self._single_quoted(), False))
                case '"':
                    pieces.append((self._double_quoted(raw_escapes=raw_escapes), False))
                case "$":
                    pieces.append((self._variable(), True))
                case self._escape:
                    pieces.append((self._escape * raw_escapes + self._next(), False))
                case _:
                    pieces.append((char, True))
        if stop:
            raise ValueError(f"unexpected end of statement while looking for matching {stop}")
        return pieces

    def _text_until(self, stop: str, *, raw_escapes: bool, missing: str) -> str:
        try:
            return "".join(text for text, _ in self._until(stop, raw_escapes=raw_escapes))
        except ValueError as error:
            raise ValueError(missing if not self._peek() else str(error)) from error

    def _single_quoted(self) -> str:
        end = self._source.find("'", self._at)
        if end < 0:
            raise ValueError("unexpected end of statement while looking for matching single-quote")
        text, self._at = self._source[self._at : end], end + 1
        return text

    def _double_quoted(self, *, raw_escapes: bool) -> str:
        """Only a quote, a dollar and the escape token can be escaped; before other characters the token stays."""
        parts: list[str] = []
        while char := self._next():
            if char == '"':
                return "".join(parts)
            if char == "$":
                char = self._variable()
            elif char == self._escape:
                escaped = self._peek()
                if not escaped:
                    break
                if raw_escapes:
                    parts.append(self._escape)
                if escaped in ('"', "$", self._escape):
                    char = self._next()
            parts.append(char)
        raise ValueError("unexpected end of statement while looking for matching double-quote")

    def _variable(self) -> str:
        """The value of the variable behind a dollar."""
        if self._peek() != "{":
            name = self._name()
            return self._spend(self._variables.get(name, "")) if name else "$"
        self._at += 1
        if not self._peek():
            raise ValueError("syntax error: missing '}'")
        if self._peek() in "{}:":
            raise ValueError("syntax error: bad substitution")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("syntax error: too many nested substitutions")
        value = self._substituted(self._name())
        self._depth -= 1
        return self._spend(value)

    def _name(self) -> str:
        first = self._peek()
        if first and first in _SPECIAL_NAMES:
            return self._next()
        start = self._at
        while (char := self._peek()) and (char.isdecimal() if first.isdecimal() else char.isalnum() or char == "_"):
            self._at += 1
        return self._source[start : self._at]

    def _substituted(self, name: str) -> str:
        """The value of `${name...}`; the scanner is behind the name."""
        modifier = self._next()
        value = self._variables.get(name)
        if modifier == "}":
            return value or ""
        if modifier == "/":
            return self._replaced(value or "")
        operator = self._next() if modifier == ":" else modifier
        if operator not in ("+", "-", "?", "#", "%") or (modifier == ":" and operator in "#%"):
            shown = f":{operator}" if modifier == ":" else operator
            raise ValueError(f"unsupported modifier ({shown}) in substitution")
        word = self._text_until("}", raw_escapes=operator in "#%", missing="syntax error: missing '}'")
        absent = value is None or (modifier == ":" and not value)
        match operator:
            case "-":
                return word if absent else value or ""
            case "+":
                return "" if absent else word
            case "?":
                if absent:
                    problem = "unset" if value is None else "empty"
                    raise ValueError(f"{name}: {word or f'is not allowed to be {problem}'}")
                return value or ""
            case _:
                return _trimmed(self._spend(value or ""), operator, word)

    def _replaced(self, value: str) -> str:
        every = self._peek() == "/"
        self._at += every
        pattern = self._text_until("/", raw_escapes=True, missing="syntax error: missing '/' in ${}")
        replacement = self._text_until("}", raw_escapes=True, missing="syntax error: missing '}'")
        expression = _compile(pattern, greedy=True)

        def replace(_: object) -> str:
            self.spent += _MATCH_COST
            return self._spend(replacement)

        replaced: str = expression.sub(replace, self._spend(value), 0 if every else 1)
        return replaced


def _trimmed(value: str, operator: str, word: str) -> str:
    """The value without the shortest match of a pattern at its start (`#`) or end (`%`); the longest for a doubled operator."""
    greedy = word.startswith(operator)
    pattern = word.removeprefix(operator)
    if operator == "%":
        # The shortest match at the end is the shortest one at the start of the reversed text.
        return _trimmed(value[::-1], "#", "#" * greedy + _reversed(pattern))[::-1]
    found = _compile(pattern, greedy=greedy, at_start=True).search(value)
    return value[found.end() :] if found else value


def _reversed(pattern: str) -> str:
    """The pattern backwards, with each backslash before its character."""
    parts = []
    rest = iter(pattern)
    for char in rest:
        parts.append(char + next(rest, "") if char == "\\" else char)
    return "".join(reversed(parts))


def _compile(pattern: str, *, greedy: bool, at_start: bool = False) -> "re2._Regexp":
    """A pattern of the shell without classes: `*`, `?`, and backslashes before these two, a backslash, `}` and `/`."""
    parts = ["^"] if at_start else []
    rest = iter(pattern)
    for char in rest:
        match char:
            case "*":
                parts.append(".*" if greedy else ".*?")
            case "?":
                parts.append(".")
            case "\\":
                escaped = next(rest, "")
                if not escaped or escaped not in "*?\\}/":
                    raise ValueError(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{escaped}'")
                parts.append(re2.escape(escaped))
            case _:
                parts.append(re2.escape(char))
    re2.purge()
    try:
        return re2.compile("".join(parts), _OPTIONS)
    except re2.error as error:
        raise ValueError(f"invalid pattern ({pattern}) in substitution: {error}") from error
