"""Requests and stored rows as Structs: names in any case, nulls, wrong types, rows that hold nonsense."""

import json
from typing import Any

import msgspec
import pytest

from appliance.container.config import ContainerConfig, HealthConfig
from appliance.container.endpoint_settings import EndpointIPAMConfig, EndpointSettings
from appliance.container.go_json import convert, decode_stored, fold
from appliance.container.host_config import HostConfig, LogConfig, Mount, RestartPolicy, Ulimit
from appliance.errors import InvalidParameter


def _decode(given: dict[str, Any], struct: type[msgspec.Struct]) -> msgspec.Struct:
    fold(given, struct)
    return convert(given, struct)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"MEMORY": 7, "utsmode": "host"}, HostConfig(memory=7, uts_mode="host")),
        ({"Memory": 7, "memory": 8}, HostConfig(memory=8)),
        ({"memory": 8, "Memory": 7}, HostConfig(memory=7)),
        ({"memory": None, "Memory": None, "Binds": ["a:/b"], "binds": None}, HostConfig(binds=None)),
        ({"mounts": [{"type": "bind", "TARGET": "/a"}]}, HostConfig(mounts=[Mount(type="bind", target="/a")])),
        ({"RestartPolicy": {"name": "always"}}, HostConfig(restart_policy=RestartPolicy(name="always"))),
        ({"Ulimits": [{"Name": "core", "hard": None}]}, HostConfig(ulimits=[Ulimit(name="core")])),
        ({"Memory": None, "IpcMode": None, "Privileged": None}, HostConfig()),
        ({"RestartPolicy": None, "LogConfig": {"Config": None}}, HostConfig(log_config=LogConfig())),
        ({"Binds": None, "Init": None, "PidsLimit": None}, HostConfig(init=None)),
        ({"Nonsense": {"a": 1}}, HostConfig()),
        ({"Cmd": "sh", "Entrypoint": ["a", "b"]}, ContainerConfig(cmd=["sh"], entrypoint=["a", "b"])),
        ({"Healthcheck": {"test": ["NONE"]}}, ContainerConfig(healthcheck=HealthConfig(test=["NONE"]))),
        ({"Labels": {"Case": "a", "case": "b"}}, ContainerConfig(labels={"Case": "a", "case": "b"})),
        (
            {"ipamconfig": {"ipv4address": "10.0.0.2", "LINKLOCALIPS": None}},
            EndpointSettings(ipam_config=EndpointIPAMConfig(ipv4_address="10.0.0.2", link_local_ips=None)),
        ),
    ],
)
def test_what_a_client_sends(given: dict[str, Any], expected: msgspec.Struct) -> None:
    assert _decode(given, type(expected)) == expected


@pytest.mark.parametrize(
    ("given", "struct", "text"),
    [
        ({"Tty": "yes"}, ContainerConfig, "Tty is not a boolean"),
        ({"User": 1}, ContainerConfig, "User is not a string"),
        ({"StopTimeout": 1.5}, ContainerConfig, "StopTimeout is not a number"),
        ({"StopTimeout": 1 << 63}, ContainerConfig, "StopTimeout is not a number"),
        ({"Env": ["a", 1]}, ContainerConfig, "Env is not a list of strings"),
        ({"Env": [None]}, ContainerConfig, "Env is not a list of strings"),
        ({"Labels": {"a": 1}}, ContainerConfig, "Labels is not a map of strings"),
        ({"Healthcheck": []}, ContainerConfig, "Healthcheck is not an object"),
        ({"Healthcheck": {"Interval": "x"}}, ContainerConfig, "Interval in Healthcheck is not a number"),
        ({"Healthcheck": {"Test": ["CMD", 5]}}, ContainerConfig, "Test in Healthcheck is not a list of strings"),
        ({"ExposedPorts": {"80/tcp": 5}}, ContainerConfig, "an item of ExposedPorts is not an object"),
        ({"Mounts": 5}, HostConfig, "Mounts is not a list"),
        ({"Mounts": [5]}, HostConfig, "an item of Mounts is not an object"),
        ({"Mounts": [{"Type": 5}]}, HostConfig, "Type in Mounts is not a string"),
        ({"Mounts": [{"TmpfsOptions": {"SizeBytes": "1"}}]}, HostConfig, "SizeBytes in TmpfsOptions is not a number"),
        ({"PortBindings": {"80/tcp": "x"}}, HostConfig, "an item of PortBindings is not a list"),
        ({"PortBindings": {"80/tcp": [5]}}, HostConfig, "an item of PortBindings is not an object"),
        ({"PortBindings": {"80/tcp": [{"HostPort": 5}]}}, HostConfig, "HostPort in PortBindings is not a string"),
        ({"LogConfig": {"Config": {"a": 1}}}, HostConfig, "Config in LogConfig is not a map of strings"),
        ({"ConsoleSize": ["x"]}, HostConfig, "an item of ConsoleSize is not a number"),
        ({"Memory": True}, HostConfig, "Memory is not a number"),
        ({"Links": [1]}, EndpointSettings, "Links is not a list of strings"),
    ],
)
def test_what_has_another_type(given: dict[str, Any], struct: type[msgspec.Struct], text: str) -> None:
    with pytest.raises(InvalidParameter) as raised:
        _decode(given, struct)
    assert str(raised.value) == f"invalid JSON: {text}"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"Memory": None, "Unknown": [1]}, HostConfig()),
        ({"Memory": 5, "Ulimits": [{"Name": "a", "Soft": "x"}, 5]}, HostConfig(memory=5, ulimits=[Ulimit(name="a")])),
        ({"Mounts": [{"ReadOnly": 1, "Target": "/a"}]}, HostConfig(mounts=[Mount(target="/a")])),
        ({"RestartPolicy": 3, "Sysctls": {"a": 1}}, HostConfig()),
        ({"Healthcheck": {"Retries": 1.5, "Test": ["CMD"]}}, ContainerConfig(healthcheck=HealthConfig(test=["CMD"]))),
    ],
)
def test_a_row_always_loads(row: dict[str, Any], expected: msgspec.Struct) -> None:
    assert decode_stored(json.dumps(row).encode(), type(expected)) == expected


def test_only_what_is_given_is_stored() -> None:
    assert msgspec.json.encode(HostConfig()) == b"{}"
    given = {"Memory": 7, "Init": None, "RestartPolicy": {"Name": "always"}, "Mounts": [{"Target": "/a"}]}
    # A Go struct without omitempty has all its members.
    stored = given | {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}}
    assert msgspec.to_builtins(_decode(given, HostConfig)) == stored
