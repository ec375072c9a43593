"""A user's configuration over an image's, as moby's runconfig.Merge."""

import pytest

from appliance.container.config import ContainerConfig, Empty, HealthConfig
from appliance.container.merge import merge_config


@pytest.mark.parametrize(
    ("own", "image", "entrypoint", "cmd"),
    [
        (ContainerConfig(), ContainerConfig(entrypoint=["e"], cmd=["c"]), ["e"], ["c"]),
        (ContainerConfig(cmd=["x"]), ContainerConfig(entrypoint=["e"], cmd=["c"]), ["e"], ["x"]),
        (ContainerConfig(entrypoint=["y"]), ContainerConfig(entrypoint=["e"], cmd=["c"]), ["y"], None),
        (ContainerConfig(entrypoint=[]), ContainerConfig(entrypoint=["e"], cmd=["c"]), [], ["c"]),
        (ContainerConfig(entrypoint=[""], cmd=["x"]), ContainerConfig(entrypoint=["e"]), None, ["x"]),
    ],
)
def test_entrypoint_and_command(
    own: ContainerConfig, image: ContainerConfig, entrypoint: list[str] | None, cmd: list[str] | None
) -> None:
    merged = merge_config(own, image)
    assert (merged.entrypoint, merged.cmd) == (entrypoint, cmd)


def test_what_the_image_adds() -> None:
    own = ContainerConfig(
        env=["A=1", "GONE"], labels={"a": "own"}, exposed_ports={"80/tcp": Empty()}, user="me", stop_timeout=0
    )
    image = ContainerConfig(
        env=["A=2", "B=3", "GONE=4"],
        labels={"a": "image", "b": "image"},
        exposed_ports={"90/tcp": Empty()},
        volumes={"/v": Empty()},
        user="you",
        working_dir="/w",
        stop_signal="INT",
        stop_timeout=5,
        shell=["sh"],
        healthcheck=HealthConfig(test=["NONE"]),
    )
    merged = merge_config(own, image)
    assert merged == ContainerConfig(
        env=["B=3", "A=1", "GONE"],
        labels={"a": "own", "b": "image"},
        exposed_ports={"90/tcp": Empty(), "80/tcp": Empty()},
        volumes={"/v": Empty()},
        user="me",
        working_dir="/w",
        stop_signal="INT",
        stop_timeout=5,
        shell=["sh"],
        healthcheck=HealthConfig(test=["NONE"]),
    )
    assert own.env == ["A=1", "GONE"]
    assert image.env == ["A=2", "B=3", "GONE=4"]
