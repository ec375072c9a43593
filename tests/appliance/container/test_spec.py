"""The JSON of a spec has the members that version 0.1 sent: guests of both versions read it. Values may differ, as listed."""

import json
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from appliance.container.config import ContainerConfig
from appliance.container.exec_config import ExecConfig
from appliance.container.go_json import convert, fold
from appliance.container.host_config import HostConfig
from appliance.container.spec import build_exec_spec, build_spec, resources_of
from tether.launch import oci
from tether.launch.spec import parse_spec_untrusted

# Made by version 0.1 from the settings beside each JSON.
RECORDED: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parent / "data/specs_0_1.json").read_text())

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PORTS_AND_PING = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

S = TypeVar("S", bound=msgspec.Struct)


def _since_0_1(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec of version 0.1 with the values that today's specs have."""
    user = spec["process"]["user"]
    user["username"] = user["username"] or "0"
    if linux := spec.get("linux"):
        if spec["hostname"] == "priv":
            linux["guestDevices"] = True
        linux["sysctl"] = PORTS_AND_PING | linux["sysctl"]
        if "/proc/acpi" in linux["maskedPaths"]:
            linux["maskedPaths"].insert(2, "/proc/interrupts")
    for mount in spec.get("mounts") or ():
        if spec["root"]["readonly"] and mount["source"].startswith("/run/tether/files/"):
            mount["options"].append("ro")
    return spec


def _sorted(spec: dict[str, Any]) -> dict[str, Any]:
    """The order of the environment's variables has changed."""
    spec["process"]["env"].sort()
    return spec


def _decode(given: dict[str, Any], struct: type[S]) -> S:
    fold(given, struct)
    return convert(given, struct)


@pytest.mark.parametrize("case", RECORDED["specs"], ids=lambda case: case["hostname"])
def test_spec_of_a_container(case: dict[str, Any]) -> None:
    made = build_spec(_decode(case["config"], ContainerConfig), _decode(case["host"], HostConfig), case["hostname"], [])
    assert _sorted(json.loads(made)) == _sorted(_since_0_1(json.loads(case["json"])))
    assert oci.encode(oci.decode_untrusted(oci.Spec, made)) == made
    assert parse_spec_untrusted(made).process.args
    # Today's guest reads what version 0.1 sends.
    assert oci.encode(oci.decode_untrusted(oci.Spec, case["json"].encode())).decode() == case["json"]


@pytest.mark.parametrize("case", RECORDED["execs"], ids=lambda case: case["request"]["Cmd"][0])
def test_spec_of_an_exec(case: dict[str, Any]) -> None:
    made = build_exec_spec(
        _decode(case["config"], ContainerConfig),
        _decode(case["host"], HostConfig),
        _decode(case["request"], ExecConfig),
    )
    assert _sorted(json.loads(made)) == _sorted(_since_0_1(json.loads(case["json"])))
    assert oci.encode(oci.decode_untrusted(oci.Spec, made)) == made


@pytest.mark.parametrize(
    ("host", "sysctl"),
    [
        ({}, PORTS_AND_PING),
        ({"NetworkMode": "none"}, PORTS_AND_PING),
        ({"NetworkMode": "mine"}, PORTS_AND_PING),
        ({"NetworkMode": "host"}, {}),
        ({"NetworkMode": "host", "Sysctls": {"kernel.shmmax": "1"}}, {"kernel.shmmax": "1"}),
        (
            {"Sysctls": {"net.ipv4.ip_unprivileged_port_start": "1024"}},
            PORTS_AND_PING | {"net.ipv4.ip_unprivileged_port_start": "1024"},
        ),
    ],
)
def test_every_user_may_listen_below_1024_and_ping(host: dict[str, Any], sysctl: dict[str, str]) -> None:
    made = build_spec(ContainerConfig(cmd=["x"]), _decode(host, HostConfig), "box", [])
    assert json.loads(made)["linux"]["sysctl"] == sysctl


@pytest.mark.parametrize(
    ("given", "tty", "env"),
    [
        ([], False, [PATH, "HOSTNAME=box"]),
        (["A=b", "TERM=vt100"], True, [PATH, "HOSTNAME=box", "TERM=vt100", "A=b"]),
        (["A=1", "PATH=/bin", "A=2", "EMPTY="], False, ["PATH=/bin", "HOSTNAME=box", "A=2", "EMPTY="]),
        (["A=1", "PATH", "A", "NEVER"], False, ["HOSTNAME=box"]),
    ],
)
def test_the_environment_is_dockers_then_the_containers(given: list[str], tty: bool, env: list[str]) -> None:
    config = ContainerConfig(cmd=["x"], env=given, tty=tty, hostname="box")
    assert json.loads(build_spec(config, HostConfig(), "box", []))["process"]["env"] == env
    # An exec's variables replace the container's.
    wanted = ExecConfig(cmd=["x"], env=given, tty=tty)
    config = ContainerConfig(env=["A=0"] if "A=b" not in given else [], hostname="box")
    made = json.loads(build_exec_spec(config, HostConfig(), wanted))["process"]["env"]
    assert made == (env if any(entry.startswith("A") for entry in given) else [*env, "A=0"])


def test_a_read_only_root_has_read_only_files_but_writable_tmpfs_and_volumes() -> None:
    host = _decode({"ReadonlyRootfs": True, "Tmpfs": {"/tmp": ""}}, HostConfig)
    own = [oci.Mount("/v", "bind", "/disks/1", ("rbind",)), oci.Mount("/etc/hosts", "bind", "/mine", ("rbind",))]
    mounts = json.loads(build_spec(ContainerConfig(cmd=["x"]), host, "box", own))["mounts"]
    read_only = {mount["destination"] for mount in mounts if "ro" in mount["options"]}
    assert read_only == {"/etc/hostname", "/etc/resolv.conf", "/sys", "/sys/fs/cgroup"}


@pytest.mark.parametrize("case", RECORDED["resources"])
def test_resources_of_an_update(case: dict[str, Any]) -> None:
    resources = resources_of(_decode(case["host"], HostConfig))
    made = oci.encode(resources)
    assert made.decode() == case["json"]
    assert oci.decode_untrusted(oci.Resources, made) == resources
