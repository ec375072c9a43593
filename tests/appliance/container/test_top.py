"""What ps printed, reduced to a container's processes."""

import time

import pytest

from appliance.container.top import parse_ps, ps_arguments
from appliance.errors import InvalidParameter, VchError


def test_rows_of_the_container_with_the_last_field_whole() -> None:
    output = "UID   PID  CMD\nroot    1  init\nroot   17  sh -c  a b\nroot    -  -\n70     18  sleep\n\n"
    titles, rows = parse_ps(output, {17})
    assert titles == ["UID", "PID", "CMD"]
    assert rows == [["root", "17", "sh -c a b"], ["root", "-", "-"]]


@pytest.mark.parametrize("output", ["", "COMMAND\nsh\n", "PID CMD\nnonsense x\n"])
def test_output_without_a_table_of_pids(output: str) -> None:
    with pytest.raises(VchError):
        parse_ps(output, {1})


def test_arguments() -> None:
    assert ps_arguments("") == ["-ef"]
    assert ps_arguments("-o pid=PID -e") == ["-o", "pid=PID", "-e"]
    with pytest.raises(InvalidParameter, match='specifying "x=PID" is not allowed'):
        ps_arguments("-o x=PID")


@pytest.mark.parametrize("text", [" " * 60_000, "-o " + "x=" * 30_000, " =" * 30_000, " x=" + " " * 60_000])
def test_the_time_for_arguments_grows_with_their_length(text: str) -> None:
    started = time.thread_time()
    ps_arguments(text)
    assert time.thread_time() - started < 0.2
