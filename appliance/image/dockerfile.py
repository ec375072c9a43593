"""The syntax of Dockerfile instructions: lines, flags, words, lists. Pure. Variables stay as they are.

Source: buildkit frontend/dockerfile/parser.
"""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from appliance.errors import InvalidParameter

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(\S.*)")
_DIRECTIVES = ("syntax", "escape", "check")
# The escape token at the end of a line, unless another one is before it.
_CONTINUED = {token: re.compile(rf"(^|[^\{token}])\{token}[ \t]*$") for token in ("\\", "`")}
_SUBSTITUTION = r"\$\{(?:\w+|[@*#?$!-])[}:+?#%/-]"
_SUBSTITUTES = re.compile(_SUBSTITUTION)
# A part of a word: text in quotes, an escaped character, the operator of a heredoc with the blanks behind it, a character.
_PART = re.compile(rf"""'[^']*'|"(?:\\.|[^"\\$]|\$(?!\{{)|{_SUBSTITUTION})*"|\\.?|<<[\t\r ]*|[^'"]""", re.DOTALL)
_HEREDOC = re.compile(r"[0-9]*<<(-?)([^<]*)")
_WITH_HEREDOCS = ("ADD", "COPY", "RUN")
_NOT_STRINGS = "when using JSON array syntax, arrays must be comprised of strings only"


def escape_token(text: str) -> str:
    """The character that escapes others: a backslash, or what the directive `# escape=` says. Directives are the first lines.

    InvalidParameter for another character, and for a directive that is repeated.
    """
    found: dict[str, str] = {}
    for line in text.split("\n"):
        directive = _DIRECTIVE.match(line.lstrip())
        if directive is None or (name := directive[1].lower()) not in _DIRECTIVES:
            break
        if name in found:
            raise InvalidParameter(f"only one {name} parser directive can be used")
        found[name] = directive[2].rstrip()
    token = found.get("escape", "\\")
    if token not in _CONTINUED:
        raise InvalidParameter(f"invalid escape token '{token}' does not match ` or \\")
    return token


class LogicalLine(NamedTuple):
    """The line of an instruction, and its heredocs as they are written: each a line break, the text and the last line."""

    text: str
    heredocs: str


def logical_lines(text: str, escape: str = "\\") -> Iterator[LogicalLine]:
    """The instructions of a Dockerfile, with continued lines joined, without comments and empty lines.

    InvalidParameter for a heredoc without its last line.
    """
    lines = iter(text.split("\n"))
    for line in lines:
        line = line.rstrip("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        joined = ""
        while (found := _CONTINUED[escape].search(line)) is not None:
            joined += line[: found.start()] + found[1]
            # Comments and empty lines between continued lines do not end them.
            line = next((one for one in lines if one.strip() and not one.lstrip().startswith("#")), "").rstrip("\r")
        if joined or line:
            yield LogicalLine(joined + line, _read_heredocs(joined + line, lines, escape))


def _read_heredocs(line: str, lines: Iterator[str], escape: str) -> str:
    if "<<" not in line or not _may_have_heredocs(line, escape):
        return ""
    read = []
    for name, indented in _heredocs(line):
        read.append("\n")
        for content in lines:
            last = content.rstrip("\r")
            if (last.lstrip("\t") if indented else last) == name:
                break
            read.append(f"{content}\n")
        else:
            raise InvalidParameter("unterminated heredoc")
        read.append(name)
    return "".join(read)


def _may_have_heredocs(line: str, escape: str) -> bool:
    name, _, rest = split_instruction(line, escape)
    if name.upper() == "ONBUILD":
        name, _, rest = split_instruction(rest, escape)
    return name.upper() in _WITH_HEREDOCS and string_list(rest) is None


def _heredocs(line: str) -> list[tuple[str, bool]]:
    """The heredocs that a line opens: the last line of each, and whether tabs may precede that line (`<<-`)."""
    found = []
    for word in _raw_words(line):
        opened = _HEREDOC.fullmatch(word)
        if opened is not None and (name := _unquoted(opened[2].lstrip())):
            found.append((name, opened[1] == "-"))
    return found


def _raw_words(line: str) -> list[str]:
    """The words between blanks, with their quotes and backslashes. Empty if a quote or a substitution is malformed."""
    words, start, at, last_brace = [], 0, 0, line.rfind("}")
    while at < len(line):
        part = _PART.match(line, at)
        if part is None:
            return []
        if line.startswith("${", at) and (at > last_brace or not _SUBSTITUTES.match(line, at)):
            return []
        if part[0].isspace():
            words.append(line[start:at])
            start = part.end()
        at = part.end()
    return [*words, line[start:]]


def _unquoted(word: str) -> str:
    def without_quotes(part: re.Match[str]) -> str:
        match part[0][0]:
            case "'":
                return part[0][1:-1]
            case '"':
                return re.sub(r"\\([\"$\\])", r"\1", part[0][1:-1])
            case "\\":
                return part[0][1:]
            case _:
                return part[0]

    return _PART.sub(without_quotes, word)


def split_instruction(line: str, escape: str = "\\") -> tuple[str, list[str], str]:
    """The name of an instruction, its flags (`--name=value`) and the rest of its line."""
    name, *rest = _BLANKS.split(line.strip(), maxsplit=1)
    flags, rest_of_line = _flags(rest[0], escape) if rest else ([], "")
    return name, flags, rest_of_line.strip()


def _flags(text: str, escape: str) -> tuple[list[str], str]:
    """Words at the start that begin with `--`, and what follows them. Quotes and backslashes are taken out of the words."""
    flags: list[str] = []
    while (text := text.lstrip()).startswith("--"):
        word, at, quote = "", 0, ""
        while at < len(text) and (quote or not text[at].isspace()):
            char = text[at]
            if char == escape:
                at += 1
                word += text[at : at + 1]
            elif char == quote or (not quote and char in "'\""):
                quote = "" if quote else char
            else:
                word += char
            at += 1
        text = text[at:]
        if word == "--":
            break
        flags.append(word)
    return flags, text


def split_words(text: str, escape: str = "\\") -> list[str]:
    """The words between blanks. Quotes and backslashes keep blanks in a word, and stay in it."""
    words, start, at, quote = [], -1, 0, ""
    while at < len(text):
        char = text[at]
        if not quote and char.isspace():
            if start >= 0:
                words.append(text[start:at])
            start = -1
        else:
            start = at if start < 0 else start
            if char == quote:
                quote = ""
            elif not quote and char in "'\"":
                quote = char
            elif char == escape and quote != "'":
                at += 1
        at += 1
    if start >= 0:
        # An escape token at the end is left out.
        words.append(text[start:-1] if at > len(text) else text[start:])
    return [word for word in words if word]


def key_values(name: str, text: str, escape: str = "\\") -> list[tuple[str, str]]:
    """The pairs of `KEY=value ...` or of the old form `KEY value`, as they are written. InvalidParameter with Docker's texts."""
    words = split_words(text, escape)
    if not words:
        raise InvalidParameter(f"{name} requires at least one argument")
    if "=" not in words[0]:
        key, *value = _BLANKS.split(text, maxsplit=1)
        if not value:
            raise InvalidParameter(f"{name} must have two arguments")
        return [(key, value[0])]
    for word in words:
        if "=" not in word:
            quoted = json.dumps(word, ensure_ascii=False)
            raise InvalidParameter(f"Syntax error - can't find = in {quoted}. Must be of the form: name=value")
        if word.startswith("="):
            raise InvalidParameter(f"{name} names can not be blank")
    return [(key, value) for key, _, value in (word.partition("=") for word in words)]


def string_list(text: str) -> list[str] | None:
    """The strings of a JSON list; None for a text that is not one. InvalidParameter for a list of other things."""
    if not text.lstrip().startswith("["):
        return None
    try:
        values: list[object] = msgspec.json.decode(text, type=list[object])
    except (msgspec.MsgspecError, RecursionError):
        return None
    strings = [value for value in values if isinstance(value, str)]
    if len(strings) != len(values):
        raise InvalidParameter(_NOT_STRINGS)
    return strings


def arguments(text: str) -> list[str]:
    """The words of a JSON list, or those between blanks."""
    strings = string_list(text)
    return (_BLANKS.split(text) if text else []) if strings is None else strings
