"""Image configs, which strangers write."""

import itertools
import json
from typing import Any

import msgspec
import pytest

from appliance.container.config import ContainerConfig
from appliance.errors import ProtocolError
from appliance.image.config import parse_config_untrusted

_DIGEST = "sha256:" + "a" * 64
_SOUND: dict[str, Any] = {
    "architecture": "amd64", "os": "linux", "created": "2020-01-01T00:00:00Z", "config": {"Cmd": ["sh"]},
    "rootfs": {"type": "layers", "diff_ids": [_DIGEST]}, "history": [{"created_by": "somebody", "empty_layer": True}],
}  # fmt: skip


def _with(change: dict[str, Any]) -> bytes:
    return json.dumps({**_SOUND, **change}).encode()


def test_what_docker_and_buildkit_write() -> None:
    config = {
        "Hostname": "",
        "User": "1000:1000",
        "AttachStdin": False,
        "ExposedPorts": {"80/tcp": {}},
        "Env": ["PATH=/bin"],
        "Cmd": None,
        "Entrypoint": ["/run"],
        "Image": "",
        "Volumes": {"/data": {}},
        "WorkingDir": "/",
        "OnBuild": [],
        "Labels": {"a": "b"},
        "StopSignal": "SIGQUIT",
        "Shell": ["/bin/sh", "-c"],
        "ArgsEscaped": True,
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 10**9, "StartInterval": 1, "Retries": 3},
    }
    found = parse_config_untrusted(
        _with({"config": config, "variant": "v8", "os.version": "1", "moby.buildkit.cache.v0": "x"})
    )
    # Zero values are not kept: a container of the image has them anyway.
    zero = ("Hostname", "AttachStdin", "Cmd", "Image")
    assert msgspec.to_builtins(found.config) == {key: value for key, value in config.items() if key not in zero}
    assert found.diff_ids == [_DIGEST]


def test_a_text_is_a_list_of_one() -> None:
    assert parse_config_untrusted(_with({"config": {"Cmd": "sh", "Entrypoint": "env"}})).config == ContainerConfig(
        cmd=["sh"], entrypoint=["env"]
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *itertools.product(("Cmd", "Entrypoint", "Env", "OnBuild", "Shell"), (1, True, [1], [None], [["x"]], {"a": 1})),
        *itertools.product(("ExposedPorts", "Volumes"), (1, "x", ["x"], {"a": 1})),
        *itertools.product(("Labels",), (1, "x", ["x"], {"a": 1}, {"a": None})),
        *itertools.product(("User", "WorkingDir", "StopSignal"), (1, ["x"], {})),
        *itertools.product(("StopTimeout",), ("x", 1.5, 10**30)),
        *itertools.product(("Healthcheck",), (1, "x", [], {"Test": "x"}, {"Test": [1]}, {"Interval": "x"})),
    ],
)
def test_configs_of_wrong_shapes(name: str, value: Any) -> None:
    with pytest.raises(ProtocolError, match=f"invalid image config: .*{name}"):
        parse_config_untrusted(_with({"config": {name: value}}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        _with({"history": [{}] * 100_001}),
        _with({"config": {"Labels": {str(number): "" for number in range(200_001)}}}),
        _with({"config": []}),
        _with({"rootfs": []}),
        _with({"os": 1}),
        _with({"rootfs": {"diff_ids": ["x"]}}),
        _with({"rootfs": {"diff_ids": [1]}}),
        _with({"rootfs": {"diff_ids": [_DIGEST] * 251}}),
        *(_with({"history": value}) for value in (1, "x", [1], [None], {"a": 1}, [{"created_by": 1}])),
    ],
)
def test_invalid_configs(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_config_untrusted(data)
