"""Dockerfile instructions of `docker commit --change`."""

import msgspec
import pytest

from appliance.container.config import ContainerConfig
from appliance.errors import InvalidParameter
from appliance.image.instructions import apply_instructions


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ('CMD ["a", "b"]', "Cmd", ["a", "b"]),
        ("cmd a b", "Cmd", ["/bin/sh", "-c", "a b"]),
        ("ENTRYPOINT []", "Entrypoint", []),
        ('ENV A=1 B="2 3"', "Env", ["OLD=x", "A=1", "B=2 3"]),
        ("ENV OLD new", "Env", ["OLD=new"]),
        ("EXPOSE 80 53/udp 90-91", "ExposedPorts", {"80/tcp": {}, "53/udp": {}, "90/tcp": {}, "91/tcp": {}}),
        ("LABEL a=b", "Labels", {"a": "b"}),
        ("USER 12:34", "User", "12:34"),
        ("WORKDIR sub", "WorkingDir", "/app/sub"),
        ('VOLUME ["/a", "/b"]', "Volumes", {"/a": {}, "/b": {}}),
        ("STOPSIGNAL SIGINT", "StopSignal", "SIGINT"),
        ("ONBUILD RUN x", "OnBuild", ["RUN x"]),
        ("HEALTHCHECK NONE", "Healthcheck", {"Test": ["NONE"]}),
        (
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl x",
            "Healthcheck",
            {"Test": ["CMD-SHELL", "curl x"], "Interval": 90 * 10**9, "Retries": 2},
        ),
    ],
)
def test_what_they_change(line: str, key: str, value: object) -> None:
    before = ContainerConfig(env=["OLD=x"], working_dir="/app")
    assert msgspec.to_builtins(apply_instructions(before, [line]))[key] == value
    assert before == ContainerConfig(env=["OLD=x"], working_dir="/app")


@pytest.mark.parametrize(
    "line",
    [
        "RUN x",
        "NONSENSE",
        "ENV",
        "ENV A",
        "EXPOSE 70000",
        "USER",
        "USER a b",
        "ONBUILD FROM x",
        "HEALTHCHECK CMD",
        "HEALTHCHECK --interval=x CMD a",
        "LABEL 'unclosed",
    ],
)
def test_what_is_refused(line: str) -> None:
    with pytest.raises(InvalidParameter):
        apply_instructions(ContainerConfig(), [line])
