"""Patterns of `.dockerignore`. The tables hold the answers of moby's matcher. A slow test asks it about random cases."""

import json
import random
import subprocess

import pytest

from appliance.errors import InvalidParameter
from appliance.image.dockerignore import MAX_FILE, MAX_PATTERNS, is_ignored, read_patterns
from tests.live import gotools

# Most rows are those of patternmatcher_test.go.
_ROWS: list[tuple[str, str, bool]] = [
    ("**", "file", True),
    ("**", "dir/file", True),
    ("**/", "file", True),
    ("**/**", "dir/file", True),
    ("dir/**", "dir/file", True),
    ("dir/**", "dir/dir2/file", True),
    ("dir/**", "dir", False),
    ("**/dir", "dir", True),
    ("**/dir", "dir/file", True),
    ("**/dir2/*", "dir/dir2/file", True),
    ("**/dir2/*", "dir/dir2/dir2/file", True),
    ("**file", "dir/file", True),
    ("**file", "dir/dir.file", True),
    ("**/file", "dir/dir.file", False),
    ("**/file*txt", "dir/dir/fileothertxt", True),
    ("**/file*.txt", "dir/dir/fileothertxt", False),
    ("**/**/*.txt", "dir/dir/file.txt", True),
    ("**/**/*.txt2", "dir/dir/file.txt", False),
    ("**/*.txt", "file.txt", True),
    ("a**/*.txt", "a/file.txt", True),
    ("a**/*.txt", "a/dir/file.txt", True),
    ("a**/*.txt", "a/dir/dir/file.txt", True),
    ("a/*.txt", "a/dir/file.txt", False),
    ("a/*.txt", "a/file.txt.x", False),
    ("a[b-d]e", "ae", False),
    ("a[b-d]e", "ace", True),
    ("a[^b-d]e", "aze", True),
    (".*", ".foo", True),
    (".*", "foo", False),
    ("abc.def", "abcdef", False),
    ("abc.def", "abcZdef", False),
    ("abc?def", "abcZdef", True),
    ("abc?def", "abcdef", False),
    ("a\\\\", "a\\", True),
    ("a\\*b", "a*b", True),
    ("**/foo/bar", "a/b/foo/bar", True),
    ("abc/**", "abc/def/ghi", True),
    ("abc/def/**", "abc/def/ghi", True),
    ("**/.foo", "bar/.foo", True),
    ("*.a", "x.a/b", True),
    ("a(b)c/def", "a(b)c/def", True),
    ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
    ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", True),
    ("foo**", "foo/bar", True),
    ("foo**", "foo\nbar", True),
    ("a*", "a\nb", True),
    ("a/../b", "b", True),
    ("*", ".", False),
    ("\\d", "5", True),
    ("^a", "^a", True),
    ("^a*", "^ab", False),
    ("Dockerfile", "dockerfile", False),
]
_SEVERAL: list[tuple[list[str], str, bool]] = [
    ([], "a", False),
    ([" ", ""], "a", False),
    (["**", "!util/docker/web"], "util/docker/web/foo", False),
    (["**", "!util/docker/web", "util/docker/web/foo"], "util/docker/web/foo", True),
    (["*", "!Dockerfile"], "Dockerfile", False),
    (["*", "!docker*"], "Dockerfile", True),
    (["!a", "a"], "a", True),
    (["docs", "!docs/Dockerfile"], "docs/Dockerfile", False),
]
_MALFORMED = ["[", "a[", "a[]", "[]a]", "[-x]", "[x-]", "a\\", "[a-b-c]", "!", "[z-a]", "\\é"]


@pytest.mark.parametrize(("pattern", "path", "ignored"), _ROWS)
def test_a_pattern(pattern: str, path: str, ignored: bool) -> None:
    assert is_ignored(path, [pattern]) is ignored


@pytest.mark.parametrize(("patterns", "path", "ignored"), _SEVERAL)
def test_the_last_match_counts(patterns: list[str], path: str, ignored: bool) -> None:
    assert is_ignored(path, patterns) is ignored


@pytest.mark.parametrize("pattern", _MALFORMED)
def test_a_malformed_pattern(pattern: str) -> None:
    with pytest.raises(InvalidParameter, match=r"syntax error in pattern|illegal exclusion"):
        is_ignored("a", [pattern])


_FILES = [
    ("", []),
    ("# comment\n\n  \t\na\r\n b \n", ["a", "b"]),
    (" # no comment", ["# no comment"]),
    ("\ufeffa\n", ["a"]),
    ("/a\n//b//c/\n/\n!/d\n! e\n!\n./f/../g", ["a", "b/c", "/", "!d", "!e", "!", "g"]),
    ("a\x00b\u00a0", ["a\x00b"]),
]


@pytest.mark.parametrize(("text", "patterns"), _FILES)
def test_a_file(text: str, patterns: list[str]) -> None:
    assert read_patterns(text.encode()) == patterns


@pytest.mark.parametrize("data", [bytes(MAX_FILE + 1), b"a\n" * (MAX_PATTERNS + 1), b"a" * (64 << 10)])
def test_a_file_that_is_too_large(data: bytes) -> None:
    with pytest.raises(InvalidParameter, match=r"error reading \.dockerignore"):
        read_patterns(data)


@pytest.mark.slow
def test_moby_says_the_same() -> None:
    program = gotools.dockerignore()
    if program is None:
        pytest.skip("Go is not installed")
    chance = random.Random(1)
    words = [
        "**",
        "*",
        "/",
        "a",
        "b",
        ".",
        "?",
        "[ab]",
        "[^a]",
        "\\a",
        "!",
        "-",
        "^",
        "ab",
        "(",
        "[",
        "]",
        " ",
        "..",
        "\\",
    ]
    cases: list[tuple[list[str], str]] = [([pattern], path) for pattern, path, _ in _ROWS]
    cases += [(patterns, path) for patterns, path, _ in _SEVERAL] + [([pattern], "a") for pattern in _MALFORMED]
    for _ in range(6000):
        patterns = ["".join(chance.choices(words, k=chance.randint(1, 6))) for _ in range(chance.randint(1, 3))]
        cases.append((patterns, "".join(chance.choices(["a", "b", "ab", "/", ".", "-"], k=chance.randint(1, 6)))))
    files = [text for text, _ in _FILES]
    files += ["".join(chance.choices([*words, "\n", "\r\n", "#", "\t"], k=chance.randint(1, 12))) for _ in range(2000)]
    asked = [{"Patterns": patterns, "Path": path} for patterns, path in cases] + [{"File": text} for text in files]
    done = subprocess.run(
        [program], input="\n".join(map(json.dumps, asked)), capture_output=True, text=True, check=True
    )
    answers = list(map(json.loads, done.stdout.splitlines()))
    for (patterns, path), answer in zip(cases, answers, strict=False):
        try:
            ours: object = is_ignored(path, patterns)
        except InvalidParameter:
            ours = "error"
        assert ours == answer, (patterns, path)
    for text, answer in zip(files, answers[len(cases) :], strict=True):
        assert (text, read_patterns(text.encode())) == (text, answer)
