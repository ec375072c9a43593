"""Regular expressions and globs of clients, with a bound on the time and the memory that they cost."""

import pytest
import trio

from appliance.api.patterns import matching_globs, matching_names
from appliance.container import expressions
from appliance.errors import InvalidParameter
from tests.steps import cpu_of_steps, in_fresh_process


@pytest.mark.parametrize(
    ("patterns", "matches"),
    [
        ([], {"web", "web-2", "data"}),
        (["^web$"], {"web"}),
        (["web"], {"web", "web-2"}),
        (["^d", "2$"], {"data", "web-2"}),
        (["[[:digit:]]"], {"web-2"}),
        (["(?i)WEB$"], {"web"}),
        # Malformed patterns and those that RE2 does not have are no errors.
        (["("], set()),
        (["(", "^data$"], {"data"}),
        ([r"(e)\1"], set()),
        ([r"\Qweb", "x|data"], {"web", "web-2", "data"}),
        ([")|(a"], set()),
        (["x(?i)", "WEB"], set()),
    ],
)
async def test_names(patterns: list[str], matches: set[str]) -> None:
    assert await matching_names(patterns, ["web", "web-2", "data"]) == matches


async def test_a_malformed_pattern_matches_itself() -> None:
    assert await matching_names(["a("], ["a(", "a"]) == {"a("}


@pytest.mark.parametrize(
    ("glob", "matches"),
    [
        ("*", {"app", "a-p"}),
        ("a?p", {"app", "a-p"}),
        ("*/app", {"team/app"}),
        ("team*", set()),
        ("a[a-z]p", {"app"}),
        ("a[^a-z]p", {"a-p"}),
        (r"a[\-p]p", {"app", "a-p"}),
        (r"\app", {"app"}),
        ("a.p", set()),
        ("ap", set()),
    ],
)
async def test_globs(glob: str, matches: set[str]) -> None:
    assert await matching_globs([glob], ["app", "a-p", "team/app"]) == matches


@pytest.mark.parametrize("glob", ["[", "a[", "[]", "[]a]", "[^]", "[a", "[a-", "[a-]", "[-a]", "[z-a]", "a\\", "[\\"])
async def test_malformed_globs(glob: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^syntax error in pattern$"):
        await matching_globs(["*", glob], ["app"])


async def test_patterns_that_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "_MOST_SECONDS", 0.001)
    with pytest.raises(InvalidParameter, match="too complex"):
        await matching_names(["(a?){1000}a{1000}"], [f"{'a' * 60}{number}" for number in range(20)])


def _costly_patterns() -> float:
    """The longest step of the event loop, in seconds of CPU time."""

    async def match() -> float:
        names = [f"{'a' * 60}{number}" for number in range(20)]
        with cpu_of_steps() as steps:
            await matching_names(["(a+)+$", "(a|aa)+b", "(.*)*x"], names)
            await matching_names(
                ["(a?){1000}a{1000}", *[f"a{{0,900}}[^b]{{90}}{number}" for number in range(50)]], names
            )
            await matching_names([r"\pL{500}" * 100], names)
            await matching_globs(["*a" * 500, *["[^b]*" * 100] * 20], names)
        return steps.longest

    return trio.run(match)


def test_no_pattern_costs_the_event_loop_time_or_much_memory() -> None:
    run = in_fresh_process(_costly_patterns)
    assert run.result < 0.05
    assert run.grown < 32 << 20
