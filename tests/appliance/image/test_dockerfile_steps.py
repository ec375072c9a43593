"""The steps of a Dockerfile, and BuildKit's numbers of them."""

import pytest

from appliance.errors import InvalidParameter
from appliance.image.dockerfile_steps import MAX_STEPS, steps_of

_TWO = """# syntax is not used
ARG V=1
FROM busybox:$V AS build
ENV A=b
RUN echo \\
    # a comment
    a
COPY <<X /x
RUN not an instruction
X
FROM scratch
COPY --from=build /x /x
CMD ["x"]
from BUILD as last
workdir /y
"""


def _numbers(text: str, target: str = "") -> list[tuple[int, str, int, str]]:
    return [(step.stage, step.stage_name, step.index, step.text.split()[0]) for step in steps_of(text, target)]


def test_stages() -> None:
    assert _numbers(_TWO) == [
        (-1, "", 0, "ARG"),
        (0, "build", 1, "FROM"),
        (0, "build", 0, "ENV"),
        (0, "build", 2, "RUN"),
        (0, "build", 3, "COPY"),
        (1, "stage-1", 0, "FROM"),
        (1, "stage-1", 1, "COPY"),
        (1, "stage-1", 0, "CMD"),
        (2, "last", 0, "from"),
        (2, "last", 1, "workdir"),
    ]
    assert steps_of(_TWO)[3].text == "RUN echo     a"


@pytest.mark.parametrize(("target", "count"), [("BUILD", 5), ("0", 5), ("1", 8), ("last", 10), ("other", 10)])
def test_a_target_ends_the_count(target: str, count: int) -> None:
    assert len(steps_of(_TWO, target)) == count


def test_the_name_of_a_platform_is_a_flag() -> None:
    assert _numbers("FROM --platform=$BUILDPLATFORM a AS b\n") == [(0, "b", 1, "FROM")]


def test_bounds() -> None:
    assert steps_of("FROM a\n" + "ENV a=b\n" * MAX_STEPS) == []
    assert len(steps_of(f"FROM a\nRUN {'x' * 10000}")[1].text) == 4096
    with pytest.raises(InvalidParameter):
        steps_of("FROM a\nRUN <<X\n")
