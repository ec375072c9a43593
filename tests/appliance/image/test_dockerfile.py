"""The syntax of Dockerfile instructions, as buildkit frontend/dockerfile/parser."""

import time

import pytest

from appliance.errors import InvalidParameter
from appliance.image.dockerfile import (
    arguments,
    escape_token,
    key_values,
    logical_lines,
    split_instruction,
    split_words,
    string_list,
)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n  # comment\n\r\n", []),
        ("ENV A=1\nENV B=2\r\n", ["ENV A=1", "ENV B=2"]),
        ("  ENV A=1 \\\n  B=2", ["ENV A=1   B=2"]),
        ("CMD a \\  \n# comment\n\n b\nUSER x", ["CMD a  b", "USER x"]),
        ("CMD a \\\\\nUSER x", ["CMD a \\\\", "USER x"]),
        ("CMD a\\", ["CMD a"]),
        ("\\\nUSER x", ["USER x"]),
    ],
)
def test_lines(text: str, lines: list[str]) -> None:
    assert [line.text for line in logical_lines(text)] == lines


_RUN = "RUN cat <<{} >x\n"


@pytest.mark.parametrize(
    ("text", "heredocs"),
    [
        ("RUN <<EOF\n# kept\n\n  a \\\nEOF\nUSER x", ["\n# kept\n\n  a \\\nEOF", ""]),
        ("onbuild Copy <<a <<b /x\n1\na\n2\nb\n", ["\n1\na\n2\nb"]),
        ("ADD 3<<-E /x\n\tE x\n\tE\n", ["\n\tE x\nE"]),
        ("RUN <<E\r\na\r\nE\r\nUSER x", ["\na\r\nE", ""]),
        ("RUN cat \\\n<<E\nE\nUSER x", ["\nE", ""]),
        (_RUN.format("'E F'") + "a\nE F", ["\na\nE F"]),
        (_RUN.format('"E\\"" ') + 'a\nE"', ['\na\nE"']),
        (_RUN.format("\\E") + "a\nE", ["\na\nE"]),
        (_RUN.format(" E") + "a\nE", ["\na\nE"]),
        (_RUN.format("$E ${E}") + "a\n$E", ["\na\n$E"]),
        # These are no heredocs.
        ("RUN a<<E\nUSER x", ["", ""]),
        ("RUN cat <<<E\nUSER x", ["", ""]),
        ("RUN it's <<E\nUSER x", ["", ""]),
        ("RUN ${a[0]} <<E\nUSER x", ["", ""]),
        ("RUN ${a <<E\nUSER x", ["", ""]),
        ('RUN "${a[0]}" <<E\nUSER x', ["", ""]),
        ('RUN "$a ${b} \\"" <<E\nE\nUSER x', ["\nE", ""]),
        ("RUN echo '<<E' \"<<E\" \\<<E << <<''\nUSER x", ["", ""]),
        ('RUN ["cat", "<<E"]\nUSER x', ["", ""]),
        ("CMD <<E\nUSER x", ["", ""]),
        ("ONBUILD CMD <<E\nUSER x", ["", ""]),
        ("ONBUILD ONBUILD RUN <<E\nUSER x", ["", ""]),
    ],
)
def test_heredocs(text: str, heredocs: list[str]) -> None:
    """buildkit's parser has these for ADD, COPY and RUN, and behind ONBUILD for these three."""
    assert [line.heredocs for line in logical_lines(text)] == heredocs


@pytest.mark.parametrize("text", ["RUN <<E", "RUN <<E\n E", "ONBUILD RUN <<E <<F\nF\nE\n"])
def test_a_heredoc_without_its_end(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^unterminated heredoc$"):
        list(logical_lines(text))


@pytest.mark.parametrize(
    "text",
    [
        "#a=x" + " " * 60_000 + "y",
        "RUN <<" + " " * 60_000 + "<",
        "RUN " + "${" * 30_000 + "}",
        "RUN " + '"\\' * 20_000,
        "RUN " + "<<a" * 20_000,
        "RUN " + "a" * 60_000 + " <<E\nE",
    ],
)
def test_the_time_for_a_line_grows_with_its_length(text: str) -> None:
    started = time.thread_time()
    escape_token(text)
    list(logical_lines(text))
    assert time.thread_time() - started < 0.5


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("", "\\"),
        ("# escape=`\nUSER x", "`"),
        ("#syntax=x\n  #  ESCAPE =  `  \n", "`"),
        ("# a comment\n# escape=`", "\\"),
        ("USER x\n# escape=`", "\\"),
        ("# other=1\n# escape=`", "\\"),
    ],
)
def test_the_escape_token(text: str, token: str) -> None:
    assert escape_token(text) == token


def test_wrong_directives() -> None:
    with pytest.raises(InvalidParameter, match=r"^invalid escape token 'x' does not match ` or \\$"):
        escape_token("# escape=x")
    with pytest.raises(InvalidParameter, match=r"^only one escape parser directive can be used$"):
        escape_token("# escape=`\n# escape=`")


def test_another_escape_token() -> None:
    lines = [line.text for line in logical_lines("CMD a `\nb\\\nUSER x", "`")]
    assert lines == ["CMD a b\\", "USER x"]
    assert split_words("a=b` c d\\ e", "`") == ["a=b` c", "d\\", "e"]
    assert split_instruction("X --a=b` c d", "`") == ("X", ["--a=b c"], "d")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("CMD", ("CMD", [], "")),
        ("cmd  a b ", ("cmd", [], "a b")),
        (
            "HEALTHCHECK --interval=1s  --retries=2 CMD --x",
            ("HEALTHCHECK", ["--interval=1s", "--retries=2"], "CMD --x"),
        ),
        ('X --a=\'b c\' --d="e\\"f" -- --g', ("X", ["--a=b c", '--d=e"f'], "--g")),
        ("X -a", ("X", [], "-a")),
        ("X --a", ("X", ["--a"], "")),
    ],
)
def test_instructions(line: str, parts: tuple[str, list[str], str]) -> None:
    assert split_instruction(line) == parts


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        ("a  b\tc", ["a", "b", "c"]),
        ("a='b c' d=\"e f\"", ["a='b c'", 'd="e f"']),
        (r"a=b\ c d=\"e", [r"a=b\ c", r"d=\"e"]),
        ("a='\\' b", ["a='\\'", "b"]),
        ('a="\\" b" c', ['a="\\" b"', "c"]),
        ("a='b c", ["a='b c"]),
        ("a=b\\", ["a=b"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert split_words(text) == words


def test_pairs() -> None:
    assert key_values("ENV", "A=1 B='2 3' C=") == [("A", "1"), ("B", "'2 3'"), ("C", "")]
    assert key_values("ENV", "A  some words") == [("A", "some words")]
    for text, message in (
        ("", "ENV requires at least one argument"),
        ("A", "ENV must have two arguments"),
        ("=1", "ENV names can not be blank"),
        ("A=1 B", 'Syntax error - can\'t find = in "B". Must be of the form: name=value'),
    ):
        with pytest.raises(InvalidParameter) as caught:
            key_values("ENV", text)
        assert str(caught.value) == message


def test_lists() -> None:
    assert string_list('["a", "b c"]') == ["a", "b c"]
    assert string_list("[]") == []
    assert string_list("a b") is None
    assert string_list('["a"] b') is None
    assert string_list("[" * 100_000) is None
    assert arguments('["/a b"]') == ["/a b"]
    assert arguments("/a  /b") == ["/a", "/b"]
    assert arguments("") == []
    with pytest.raises(InvalidParameter, match="arrays must be comprised of strings only"):
        string_list('["a", 1]')
