"""What buildkitd gets to start: its toml, and the script, run by a shell with folders in place of cgroups."""

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from appliance.buildkit.config import (
    ENTRYPOINT,
    FOLDER,
    BuildkitSettings,
    DoorAccess,
    RegistrySettings,
    buildkitd_toml,
    start_script,
)

_DOOR = DoorAccess("vch.internal:5000", "/run/vch/ca", "/run/vch/cert", "/run/vch/key")


def test_the_toml() -> None:
    registries = (
        RegistrySettings("docker.io", mirrors=("mirror.example:5000", "other/path")),
        RegistrySettings("mirror.example:5000", insecure=True),
        RegistrySettings("private.example", certificates="/run/vch/certs/private.example"),
        RegistrySettings('odd"\\\n\x7f'),
    )
    found = tomllib.loads(buildkitd_toml(BuildkitSettings(_DOOR, 6, registries)))
    assert found["grpc"] == {"address": ["unix:///run/buildkit/buildkitd.sock"]}
    # A RUN with security.insecure could read the door's key out of the machine.
    assert found["insecure-entitlements"] == ["network.host"]
    assert found["worker"]["containerd"] == {"enabled": False}
    assert found["worker"]["oci"] == {
        "enabled": True,
        "gc": True,
        "maxUsedSpace": "80%",
        "minFreeSpace": "5%",
        "max-parallelism": 6,
        "networkMode": "host",
        "bridgeSubnet": "198.18.0.0/22",
        "cniPoolSize": 1,
        "defaultCgroupParent": "/run",
    }
    assert found["history"] == {"maxEntries": 50}
    assert found["registry"] == {
        "vch.internal:5000": {"ca": ["/run/vch/ca"], "keypair": [{"key": "/run/vch/key", "cert": "/run/vch/cert"}]},
        "docker.io": {"mirrors": ["mirror.example:5000", "other/path"]},
        "mirror.example:5000": {"http": True, "insecure": True},
        "private.example": {"tlsconfigdir": ["/run/vch/certs/private.example"]},
        'odd"\\\n\x7f': {},
    }


def test_a_tcp_port_demands_certificates() -> None:
    found = tomllib.loads(buildkitd_toml(BuildkitSettings(_DOOR, 6, port=17)))
    assert found["grpc"] == {
        "address": ["unix:///run/buildkit/buildkitd.sock", "tcp://0.0.0.0:17"],
        "tls": {"ca": "/run/vch/ca", "cert": "/run/vch/cert", "key": "/run/vch/key"},
    }


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max", 1024 << 20), (str(512 << 20), 512 << 20), (str(1 << 40), 1024 << 20)],
    ids=["no limit", "less than the machine", "more than the machine"],
)
def test_the_script_divides_the_memory_and_becomes_buildkitd(tmp_path: Path, limit: str, expected: int) -> None:
    cgroup, programs = tmp_path / "cgroup", tmp_path / "programs"
    cgroup.mkdir()
    programs.mkdir()
    (cgroup / "cgroup.procs").write_text("1\n7\n")
    (cgroup / "cgroup.controllers").write_text("cpu memory pids\n")
    (cgroup / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "meminfo").write_text("MemFree: 1 kB\nMemTotal:        1048576 kB\nBuffers: 2 kB\n")
    (programs / "buildkitd").write_text('#!/bin/sh\necho "$@"\necho "$HTTP_PROXY"\n')
    (programs / "buildkitd").chmod(0o755)
    settings = BuildkitSettings(_DOOR, 1, environment={"HTTP_PROXY": "http://user:it's $HOME@proxy"})
    script = (
        start_script(settings).replace("/sys/fs/cgroup", str(cgroup)).replace("/proc/meminfo", f"{tmp_path}/meminfo")
    )
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"--config {FOLDER}/buildkitd.toml --oci-worker-net host",
        "http://user:it's $HOME@proxy",
    ]
    assert (cgroup / "run/memory.max").read_text() == f"{expected - (256 << 20)}\n"
    assert (cgroup / "run/pids.max").read_text() == "4096\n"
    assert (cgroup / "init/cgroup.procs").read_text() == "7\n"
    assert (cgroup / "cgroup.subtree_control").read_text() == "+pids\n"
    assert "it's" not in repr(settings)


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ({}, "host"),
        ({"buildkit-cni-bridge": 0, "iptables": 0}, "bridge"),
        ({"buildkit-cni-bridge": 0, "iptables": 1}, "host"),
    ],
    ids=["no plugins", "plugins", "no NAT in the kernel"],
)
def test_runs_have_networks_of_their_own_where_the_image_can_make_them(
    tmp_path: Path, programs: dict[str, int], expected: str
) -> None:
    for name, code in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    lines = start_script(BuildkitSettings(_DOOR, 1)).splitlines()
    choice = lines[lines.index("network=host") : -1]
    script = "\n".join([*choice, "echo $network"])
    done = subprocess.run(
        ["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{expected}\n"


def test_a_builder_whose_runs_cannot_be_limited_does_not_start(tmp_path: Path) -> None:
    script = start_script(BuildkitSettings(_DOOR, 1)).replace("/sys/fs/cgroup", str(tmp_path / "none"))
    script = script.replace("mkdir -p", "true")
    assert subprocess.run(["sh", "-c", script], capture_output=True, check=False).returncode


def test_the_entrypoint_waits(tmp_path: Path) -> None:
    program = [word.replace(FOLDER, str(tmp_path)) for word in ENTRYPOINT]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True)
    (tmp_path / "start").write_text("echo started")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.15)
    (tmp_path / "ready").touch()
    assert process.communicate(timeout=20)[0] == "started\n"
