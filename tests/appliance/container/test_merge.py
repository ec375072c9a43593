"""A user's configuration over an image's, as moby daemon/commit.go, merge."""

import msgspec
import pytest

from appliance.container.config import ContainerConfig, Empty, HealthConfig
from appliance.container.host_config import HostConfig, Ulimit
from appliance.container.merge import merge_config, merge_ulimits


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
        # Docker does not inherit the next three.
        stop_timeout=5,
        shell=["sh"],
        on_build=["RUN x"],
        healthcheck=HealthConfig(test=["NONE"]),
    )
    merged = merge_config(own, image)
    assert merged == ContainerConfig(
        env=["A=1", "GONE", "B=3"],
        labels={"a": "own", "b": "image"},
        exposed_ports={"90/tcp": Empty(), "80/tcp": Empty()},
        volumes={"/v": Empty()},
        user="me",
        working_dir="/w",
        stop_signal="INT",
        stop_timeout=0,
        healthcheck=HealthConfig(test=["NONE"]),
    )
    assert own.env == ["A=1", "GONE"]
    assert image.env == ["A=2", "B=3", "GONE=4"]


_CHECK = HealthConfig(test=["CMD", "x"], interval=1, timeout=2, start_period=3, start_interval=4, retries=5)


@pytest.mark.parametrize(
    ("own", "image", "merged"),
    [
        (HealthConfig(interval=9), _CHECK, msgspec.structs.replace(_CHECK, interval=9)),
        (HealthConfig(test=[], retries=9), _CHECK, msgspec.structs.replace(_CHECK, retries=9)),
        (HealthConfig(test=["NONE"]), _CHECK, msgspec.structs.replace(_CHECK, test=["NONE"])),
        (HealthConfig(test=["CMD", "y"], timeout=0), _CHECK, msgspec.structs.replace(_CHECK, test=["CMD", "y"])),
        (None, _CHECK, _CHECK),
        (HealthConfig(interval=9), None, HealthConfig(interval=9)),
        (None, None, None),
    ],
)
def test_health_checks_merge_by_field(
    own: HealthConfig | None, image: HealthConfig | None, merged: HealthConfig | None
) -> None:
    assert merge_config(ContainerConfig(healthcheck=own), ContainerConfig(healthcheck=image)).healthcheck == merged


def test_ulimits_of_the_daemon() -> None:
    default = Ulimit("nofile", hard=20, soft=10)
    own = HostConfig(ulimits=[Ulimit("core", 0, 0)])
    assert merge_ulimits(own, ()) is own
    assert merge_ulimits(own, (default,)).ulimits == [Ulimit("core", 0, 0), default]
    assert merge_ulimits(HostConfig(), (default,)).ulimits == [default]
    assert merge_ulimits(own, (Ulimit("core", 9, 9),)) is own
    assert own.ulimits == [Ulimit("core", 0, 0)]
