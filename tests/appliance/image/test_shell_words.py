"""Variables and quotes, as buildkit frontend/dockerfile/shell (lex_test.go and its files of cases)."""

import time

import pytest

from appliance.errors import InvalidParameter
from appliance.image.shell_words import Expander

_VARIABLES = {"A": "1", "EMPTY": "", "P": "/usr/lib/lib.so", "TWO": "80 443", "L": "ünö"}


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain", "plain"),
        ("$A", "1"),
        ("${A}b$A", "1b1"),
        ("$NONE-", "-"),
        ("$A_B", ""),
        ("$1x", "x"),
        ("a$", "a$"),
        ("$.x", "$.x"),
        ("'$A'", "$A"),
        ('"$A ${A}"', "1 1"),
        (r"\$A", "$A"),
        (r'"\$A\"\\\n"', '$A"\\\\n'),
        (r"a\ b\c", "a bc"),
        ("a\\", "a"),
        ("'a\\'", "a\\"),
        ("a  b", "a  b"),
        ("${NONE:-x}", "x"),
        ("${NONE:-$A}", "1"),
        ("${NONE:-${NONE:-y}}", "y"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${NONE-x}", "x"),
        ("${A:-x}", "1"),
        ("${A:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NONE+x}", ""),
        ("${A:?x}", "1"),
        ("${EMPTY?x}", ""),
        ("${NONE:-'a}'}", "a}"),
        ("${P#*/}", "usr/lib/lib.so"),
        ("${P##*/}", "lib.so"),
        ("${P%/*}", "/usr/lib"),
        ("${P%%/*}", ""),
        ("${P%.so}", "/usr/lib/lib"),
        ("${P#nothing}", "/usr/lib/lib.so"),
        (r"${P#\*}", "/usr/lib/lib.so"),
        ("${P/lib/x}", "/usr/x/lib.so"),
        ("${P//lib/x}", "/usr/x/x.so"),
        ("${P//l?b/$A}", "/usr/1/1.so"),
        (r"${P/\/usr/}", "/lib/lib.so"),
        ("${NONE/a/b}", ""),
        ("${L#?}", "nö"),
    ],
)
def test_words(source: str, text: str) -> None:
    assert Expander().word(source, _VARIABLES) == text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("80", ["80"]),
        ("$TWO", ["80", "443"]),
        ("x$TWO-", ["x80", "443-"]),
        ('"$TWO"', ["80 443"]),
        ("'a b' c", ["a b", "c"]),
        ("$NONE", []),
        ("''", []),
        (" a  b ", ["a", "b"]),
    ],
)
def test_words_that_are_split(source: str, words: list[str]) -> None:
    assert Expander().words(source, _VARIABLES) == words


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("'a", "unexpected end of statement while looking for matching single-quote"),
        ('"a', "unexpected end of statement while looking for matching double-quote"),
        ('"a\\', "unexpected end of statement while looking for matching double-quote"),
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:-x}", "syntax error: bad substitution"),
        ("${A:-x", "syntax error: missing '}'"),
        ("${A", "unsupported modifier () in substitution"),
        ("${A!}", "unsupported modifier (!) in substitution"),
        ("${A:#x}", "unsupported modifier (:#) in substitution"),
        ("${A/x", "syntax error: missing '/' in ${}"),
        ("${A/x/y", "syntax error: missing '}'"),
        (r"${P#\a}", r"invalid pattern (\a) in substitution: invalid escape '\a'"),
        ("${NONE?}", "NONE: is not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: is not allowed to be empty"),
        ("${NONE:?say it}", "NONE: say it"),
        ("${NONE:-" * 60 + "}" * 60, "syntax error: too many nested substitutions"),
    ],
)
def test_malformed_words(source: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        Expander().word(source, _VARIABLES)
    assert str(caught.value).startswith("failed to process ")
    assert str(caught.value).endswith(message)


def test_what_variables_expand_to_has_a_bound() -> None:
    expander = Expander()
    value = "x" * (1 << 18)
    assert len(expander.word("$A$A", {"A": value})) == 1 << 19
    # Half of the bound is left.
    with pytest.raises(InvalidParameter, match="too much text"):
        expander.word("$A$A$A", {"A": value})


@pytest.mark.parametrize(
    "source",
    [
        '"' + "$A" * 20_000 + '"',
        "${B:-" + "$A" * 20_000 + "}",
        "${A//x/" + "y" * 20_000 + "}",
        "${A//x/}" * 10_000,
        "${A##*y}" * 10_000,
    ],
)
def test_words_are_bounded_before_they_are_made(source: str) -> None:
    """These took gigabytes, or minutes, though a word is short in the end."""
    started = time.thread_time()
    with pytest.raises(InvalidParameter, match="too much text"):
        Expander().word(source, {"A": "x" * 100_000, "B": "b"})
    assert time.thread_time() - started < 2


def test_the_time_for_words_grows_with_their_length() -> None:
    value = "x" * 500_000
    started = time.thread_time()
    assert Expander().words("$A", {"A": value}) == [value]
    assert time.thread_time() - started < 0.5
