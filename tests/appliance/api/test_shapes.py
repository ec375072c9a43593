"""Rows that version 0.1 stored, and what its `docker inspect` showed of them.

The rows were made by the docker CLI (cli1, cli2), by docker-py (py1) and by raw requests (raw0 to raw2).
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.api.shapes import config_shape, host_config_shape
from appliance.container.config import ContainerConfig
from appliance.container.container_record import ContainerRecord
from appliance.container.go_json import decode_stored
from appliance.container.host_config import DeviceMapping, HostConfig, RestartPolicy, Ulimit

RECORDED: list[dict[str, Any]] = json.loads((Path(__file__).parent / "data/rows_0_1.json").read_text())
# Null is the zero value now, as for dockerd; members that vchd never knew are not kept.
# RestartPolicy has both members, as Go's struct.
CHANGED: dict[str, dict[str, Any]] = {
    "py1": {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}},
    "raw1": {"Memory": 0},
    "raw2": {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
}
DROPPED = {"raw2": {"Unknown", "Whatever"}}
# Fields of HostConfig that vchd learned after version 0.1 and always shows: each name with its default.
NEWER: dict[str, Any] = {}


def _load(row: dict[str, Any]) -> ContainerRecord:
    return decode_stored(json.dumps(row).encode(), ContainerRecord)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_inspect_shows_the_same(case: dict[str, Any]) -> None:
    record = _load(case["row"])
    dropped = DROPPED.get(case["name"], set())
    for version, shown in case["shown"].items():
        major, minor = version.split(".")
        for name, found in (
            ("Config", config_shape(record.config)),
            ("HostConfig", host_config_shape(record.host_config, (int(major), int(minor)))),
        ):
            expected = {key: value for key, value in shown[name].items() if key not in dropped}
            if name == "HostConfig":
                expected |= NEWER | CHANGED.get(case["name"], {})
                if "/proc/acpi" in (expected["MaskedPaths"] or ()):
                    expected["MaskedPaths"].insert(2, "/proc/interrupts")
            assert json.loads(msgspec.json.encode(found)) == expected


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: case["name"])
def test_a_row_that_is_stored_again_holds_the_same(case: dict[str, Any]) -> None:
    record = _load(case["row"])
    stored = msgspec.json.encode(record)
    assert decode_stored(stored, ContainerRecord) == record
    row = json.loads(stored)
    assert (row["id"], row["name"], row["attachments"]) == tuple(
        case["row"][key] for key in ("id", "name", "attachments")
    )
    # Only zero values and unknown members are left out; Go's structs get all their members.
    for key in ("config", "host"):
        for name, value in row[key].items():
            if value and value not in ({"Type": "", "Config": {}}, {"Name": "", "MaximumRetryCount": 0}):
                before = case["row"][key][name]
                assert value == (value | before if isinstance(before, dict) else before)


def test_the_endpoint_settings_of_a_row() -> None:
    (attachment,) = (one for case in RECORDED if case["name"] == "cli2" for one in _load(case["row"]).attachments)
    assert attachment.wanted.aliases == ["al1"]
    assert attachment.wanted.ipam_config is not None
    assert attachment.wanted.ipam_config.ipv4_address == "10.77.0.9"


def test_what_inspect_shows_when_nothing_is_given() -> None:
    shown = host_config_shape(HostConfig(), (1, 51))
    given = (
        "NetworkMode",
        "IpcMode",
        "CgroupnsMode",
        "Runtime",
        "ShmSize",
        "ConsoleSize",
        "LogConfig",
        "RestartPolicy",
    )
    assert [shown[name] for name in given] == [
        "bridge",
        "private",
        "private",
        "vch",
        64 << 20,
        [0, 0],
        {"Type": "json-file", "Config": {}},
        {"Name": "no", "MaximumRetryCount": 0},
    ]
    assert (shown["Memory"], shown["Privileged"], shown["Binds"], shown["PidsLimit"]) == (0, False, None, None)
    assert not {"Tmpfs", "Mounts", "Init", "Sysctls", "Annotations", "KernelMemory"} & shown.keys()
    assert list(host_config_shape(HostConfig(), (1, 41)))[:2] == ["KernelMemory", "KernelMemoryTCP"]
    config = config_shape(ContainerConfig())
    assert (config["Hostname"], config["Tty"], config["Cmd"], config["Labels"]) == ("", False, None, {})
    assert not {"Healthcheck", "ExposedPorts", "StopSignal", "StopTimeout", "Shell"} & config.keys()


@pytest.mark.parametrize(
    ("host_config", "name", "old", "new"),
    [
        (HostConfig(network_mode=""), "NetworkMode", "default", "bridge"),
        (HostConfig(network_mode="default"), "NetworkMode", "default", "bridge"),
        (HostConfig(network_mode="none"), "NetworkMode", "none", "none"),
        (HostConfig(memory_swappiness=-1), "MemorySwappiness", None, None),
        (HostConfig(pids_limit=0), "PidsLimit", None, None),
        (HostConfig(pids_limit=-1), "PidsLimit", -1, -1),
        (HostConfig(masked_paths=[]), "MaskedPaths", None, None),
        (HostConfig(readonly_paths=["/a"]), "ReadonlyPaths", ["/a"], ["/a"]),
        (
            HostConfig(restart_policy=RestartPolicy(name="always")),
            "RestartPolicy",
            {"Name": "always", "MaximumRetryCount": 0},
            {"Name": "always", "MaximumRetryCount": 0},
        ),
        (
            HostConfig(devices=[DeviceMapping("/dev/kvm")]),
            "Devices",
            [{"PathOnHost": "/dev/kvm", "PathInContainer": "", "CgroupPermissions": ""}],
            [{"PathOnHost": "/dev/kvm", "PathInContainer": "", "CgroupPermissions": ""}],
        ),
        (
            HostConfig(ulimits=[Ulimit("nofile", 9)]),
            "Ulimits",
            [{"Name": "nofile", "Hard": 9, "Soft": 0}],
            [{"Name": "nofile", "Hard": 9, "Soft": 0}],
        ),
        (HostConfig(init=None), "Init", None, None),
    ],
)
def test_what_inspect_shows_by_version(host_config: HostConfig, name: str, old: object, new: object) -> None:
    assert host_config_shape(host_config, (1, 43))[name] == old
    assert host_config_shape(host_config, (1, 44))[name] == new
