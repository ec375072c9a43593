"""Dockerfile instructions of `docker commit --change`, as moby daemon/builder/dockerfile (dispatchers_test.go)."""

import functools
from typing import Any

import msgspec
import pytest
import trio

from appliance.container.config import ContainerConfig, HealthConfig
from appliance.errors import InvalidParameter
from appliance.image.instructions import apply_instructions
from tests.steps import cpu_of_steps


def _changed(config: ContainerConfig, *lines: str) -> dict[str, Any]:
    shape: dict[str, Any] = msgspec.to_builtins(apply_instructions(config, list(lines)))
    return shape


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('CMD ["a", "b"]', "Cmd", ["a", "b"]),
        ("cmd a b $OLD", "Cmd", ["/bin/sh", "-c", "a b $OLD"]),
        ("CMD []", "Cmd", []),
        ('CMD ["a"', "Cmd", ["/bin/sh", "-c", '["a"']),
        ("ENTRYPOINT a b", "Entrypoint", ["/bin/sh", "-c", "a b"]),
        ('ENV A=1 B="2 3"', "Env", ["OLD=x", "A=1", "B=2 3"]),
        ("ENV OLD new", "Env", ["OLD=new"]),
        ("ENV OLD new words", "Env", ["OLD=new words"]),
        (
            "ENV A=$OLD B=${OLD}y C=${NONE:-z} D='$OLD' E=\\$OLD",
            "Env",
            ["OLD=x", "A=x", "B=xy", "C=z", "D=$OLD", "E=$OLD"],
        ),
        ("ENV OLD=1 A=$OLD", "Env", ["OLD=1", "A=x"]),
        ("ENV OLD=$OLD:y", "Env", ["OLD=x:y"]),
        ("ENV NEW_$OLD=1", "Env", ["OLD=x", "NEW_x=1"]),
        ("EXPOSE 80 53/udp 90-91", "ExposedPorts", {"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}}),
        ("EXPOSE 127.0.0.1:8080:80/TCP", "ExposedPorts", {"80/tcp": {}}),
        ("LABEL a=b c=$OLD \"d e\"='f g'", "Labels", {"a": "b", "c": "x", "d e": "f g"}),
        ("USER 12:34", "User", "12:34"),
        ("USER $OLD", "User", "x"),
        ("WORKDIR sub", "WorkingDir", "/app/sub"),
        ("WORKDIR /a/../b/", "WorkingDir", "/b"),
        ("WORKDIR //b", "WorkingDir", "/b"),
        ("WORKDIR /with some blanks", "WorkingDir", "/with some blanks"),
        ("WORKDIR /w/$OLD", "WorkingDir", "/w/x"),
        ('VOLUME ["/a", "/b c"]', "Volumes", {"/a": {}, "/b c": {}}),
        ("VOLUME /a  /$OLD", "Volumes", {"/a": {}, "/x": {}}),
        ("STOPSIGNAL SIGINT", "StopSignal", "SIGINT"),
        ("STOPSIGNAL 9", "StopSignal", "9"),
        ("STOPSIGNAL ${NONE:-TERM}", "StopSignal", "TERM"),
        ("ONBUILD RUN echo $OLD  'a b'", "OnBuild", ["RUN echo $OLD  'a b'"]),
        ("ONBUILD   RUN a \\\n  b  ", "OnBuild", ["RUN a   b  "]),
        ("onbuild copy . /app", "OnBuild", ["copy . /app"]),
        ("ONBUILD RUN <<EOF\n# a\n\nRUN b\nEOF\n", "OnBuild", ["RUN <<EOF\n# a\n\nRUN b\nEOF"]),
        ("ONBUILD COPY <<-a <<b /x\n\t1\n\ta\n2\nb", "OnBuild", ["COPY <<-a <<b /x\n\t1\na\n2\nb"]),
        ("ONBUILD CMD cat <<EOF", "OnBuild", ["CMD cat <<EOF"]),
        ("CMD cat <<EOF", "Cmd", ["/bin/sh", "-c", "cat <<EOF"]),
        ("HEALTHCHECK NONE", "Healthcheck", {"Test": ["NONE"]}),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl $OLD",
            "Healthcheck",
            {"Test": ["CMD-SHELL", "curl $OLD"], "Interval": 90 * 10**9, "Retries": 2},
        ),
        (
            'HEALTHCHECK --timeout=1s --start-period=2s --start-interval=0 --retries=0 CMD ["a"]',
            "Healthcheck",
            {"Test": ["CMD", "a"], "Timeout": 10**9, "StartPeriod": 2 * 10**9},
        ),
        ("LABEL a=1 \\\n  b=2", "Labels", {"a": "1", "b": "2"}),
    ],
)
def test_what_they_change(line: str, key: str, value: object) -> None:
    before = ContainerConfig(env=["OLD=x"], working_dir="/app")
    assert _changed(before, line)[key] == value
    assert before == ContainerConfig(env=["OLD=x"], working_dir="/app")


def test_each_instruction_sees_the_ones_before() -> None:
    shape = _changed(
        ContainerConfig(env=["P=80 443"]),
        "ENV D=/data",
        "# comment",
        "VOLUME $D\nWORKDIR $D/x",
        "EXPOSE $P",
        "WORKDIR y",
    )
    assert shape["Volumes"] == {"/data": {}}
    assert shape["WorkingDir"] == "/data/x/y"
    assert shape["ExposedPorts"] == {"80/tcp": {}, "443/tcp": {}}


def test_what_a_change_adds_to() -> None:
    before = ContainerConfig(
        labels={"a": "1", "b": "1"}, on_build=["RUN x"], healthcheck=HealthConfig(test=["CMD", "x"], retries=9)
    )
    shape = _changed(before, "LABEL b=2", "ONBUILD RUN y", "HEALTHCHECK CMD y")
    assert shape["Labels"] == {"a": "1", "b": "2"}
    assert shape["OnBuild"] == ["RUN x", "RUN y"]
    assert shape["Healthcheck"] == {"Test": ["CMD-SHELL", "y"]}


@pytest.mark.parametrize(
    ("lines", "entrypoint", "cmd"),
    [
        (['ENTRYPOINT ["/app"]'], ["/app"], None),
        (['ENTRYPOINT ["/app"]', 'CMD ["b"]'], ["/app"], ["b"]),
        (['CMD ["b"]', 'ENTRYPOINT ["/app"]'], ["/app"], ["b"]),
        (["CMD []", 'ENTRYPOINT ["/app"]'], ["/app"], None),
        (['CMD ["b"]'], ["old"], ["b"]),
        # Docker merges the container's entrypoint in again.
        (["ENTRYPOINT []"], None, None),
    ],
)
def test_an_entrypoint_resets_the_command(
    lines: list[str], entrypoint: list[str] | None, cmd: list[str] | None
) -> None:
    shape = _changed(ContainerConfig(entrypoint=["old"], cmd=["old"]), *lines)
    assert (shape.get("Entrypoint"), shape.get("Cmd")) == (entrypoint, cmd)


def test_the_shell_of_the_configuration() -> None:
    config = ContainerConfig(shell=["/bin/bash", "-lc"])
    assert _changed(config, "CMD a")["Cmd"] == ["/bin/bash", "-lc", "a"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("RUN <<EOF\nUSER x\nEOF", "RUN is not a valid change command"),
        ("RUN <<EOF\nUSER x", "unterminated heredoc"),
        ("ONBUILD RUN <<EOF\nUSER x", "unterminated heredoc"),
        ("CMD <<EOF\nbody\nEOF", "body is not a valid change command"),
        ("Nonsense", "Nonsense is not a valid change command"),
        ('SHELL ["x"]', "SHELL is not a valid change command"),
        ("", "file with no instructions"),
        ("# only a comment", "file with no instructions"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV --a=b A=1", "unknown flag: --a"),
        ("ENV A='x", 'failed to process "\'x": unexpected end of statement while looking for matching single-quote'),
        ("LABEL 'unclosed", "LABEL must have two arguments"),
        ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("EXPOSE 70000", "invalid containerPort: 70000"),
        ("EXPOSE 9-1", "invalid containerPort: 9-1"),
        ("EXPOSE 80/icmp", "invalid proto: icmp"),
        ("EXPOSE /tcp", "no port specified: /tcp<empty>"),
        ("EXPOSE " + "0-65535 " * 4, "EXPOSE has too many ports"),
        ("USER", "USER requires exactly one argument"),
        ("WORKDIR", "WORKDIR requires exactly one argument"),
        ("WORKDIR $NONE", "cannot normalize nothing"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ('VOLUME [""]', "VOLUME specified can not be an empty string"),
        ("VOLUME $NONE", "VOLUME specified can not be an empty string"),
        ("STOPSIGNAL", "STOPSIGNAL requires exactly one argument"),
        ("STOPSIGNAL nonsense", "invalid signal: nonsense"),
        ("STOPSIGNAL 65", "invalid signal: 65"),
        ("ONBUILD", "ONBUILD requires at least one argument"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD onbuild RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD ENV A", "ENV must have two arguments"),
        ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK CMD []", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
        ("HEALTHCHECK sh x", 'Unknown type "SH" in HEALTHCHECK (try CMD)'),
        ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'),
        ("HEALTHCHECK --interval=1us CMD a", 'Interval "interval" cannot be less than 1ms'),
        ("HEALTHCHECK --timeout=-1s CMD a", 'Interval "timeout" cannot be less than 1ms'),
        ("HEALTHCHECK --retries=x CMD a", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("HEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative (-1)"),
        ("HEALTHCHECK --retries=1 --retries=1 CMD a", "duplicate flag specified: --retries"),
        ("HEALTHCHECK --interval CMD a", "missing a value on flag: --interval"),
        ("HEALTHCHECK --nonsense=1 CMD a", "unknown flag: --nonsense"),
    ],
)
def test_what_is_refused(line: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        apply_instructions(ContainerConfig(), [line])
    assert str(caught.value) == message


def test_no_changes_are_no_error() -> None:
    config = ContainerConfig(user="me")
    assert apply_instructions(config, []) == config


async def test_variables_that_double_take_the_event_loop_no_time() -> None:
    apply = functools.partial(apply_instructions, ContainerConfig(), ["ENV A=xxxxxxxx", *["ENV A=$A$A"] * 4000])
    with cpu_of_steps() as steps, pytest.raises(InvalidParameter, match="too much text"):
        await trio.to_thread.run_sync(apply)
    assert steps.longest < 0.05


def test_a_heredoc_may_span_changes() -> None:
    """moby joins all changes before it parses them."""
    made = apply_instructions(ContainerConfig(), ["ONBUILD RUN <<EOF", "a", "EOF", "USER x"])
    assert (made.on_build, made.user) == (["RUN <<EOF\na\nEOF"], "x")


def test_the_escape_token_of_the_changes() -> None:
    """As in moby's BuildFromConfig, the directive stands in the first line of all changes."""
    changes = ["# escape=`", "ENV A=C:\\\\x B=b` c", 'LABEL l="`$A $A"', "WORKDIR `\n/w"]
    made = apply_instructions(ContainerConfig(), changes)
    assert (made.env, made.labels, made.working_dir) == (["A=C:\\\\x", "B=b c"], {"l": "$A C:\\\\x"}, "/w")
