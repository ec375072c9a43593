"""The same OCI spec through crun and through ours gives the same process, as the process itself sees it."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.container.config import ContainerConfig
from appliance.container.host_config import HostConfig
from appliance.container.spec import build_spec
from tests.live.images import busybox_layer
from tether.launch.credentials import CAPABILITIES

# Both run where cgroup v2 is all there is, as in a guest: crun refuses a hybrid host.
_UNIFIED = ("unshare", "-m", "sh", "-c", 'mount -t cgroup2 cgroup2 /sys/fs/cgroup && mkdir -p "$0" && exec "$@"')


def _missing() -> str:
    """Why this machine cannot run the oracle; "" when it can."""
    if os.geteuid() or shutil.which("crun") is None:
        return "needs root and crun"
    done = subprocess.run([*_UNIFIED, "/sys/fs/cgroup/vch-test", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing() or "runs")


def _held() -> int:
    """The capabilities that may be given here: a sandboxed builder can lack some."""
    return int(re.findall(r"CapBnd:\t(\w+)", Path("/proc/self/status").read_text())[0], 16)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(busybox_layer())) as tar:
        tar.extractall(tmp_path / "rootfs", filter="fully_trusted")
    return tmp_path


def spec_for(bundle: Path, config: dict[str, Any], host: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(
        build_spec(
            msgspec.convert({"Entrypoint": ["sh", "-c"], **config}, ContainerConfig),
            msgspec.convert(host, HostConfig),
            "box",
            [],
        )
    )
    spec["root"]["path"] = str(bundle / "rootfs")
    # What only a guest has: its state files, and the name that crun cannot look up.
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["type"] != "bind"]
    # A container shares the network namespace of its guest, for which crun sets no sysctl.
    spec["linux"]["sysctl"] = {}
    # The devices of the guest are no part of OCI's specification.
    spec["linux"].pop("guestDevices", None)
    held = _held()
    for names in spec["process"]["capabilities"].values():
        names[:] = [name for name in names if held >> CAPABILITIES.index(name.removeprefix("CAP_")) & 1]
    del spec["process"]["user"]["username"]
    return spec


def through_crun(bundle: Path, spec: dict[str, Any]) -> str:
    (bundle / "config.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [
            *_UNIFIED,
            "/sys/fs/cgroup/vch-test",
            "crun",
            "--cgroup-manager=cgroupfs",
            f"--root={bundle}/crun",
            "run",
            "-b",
            str(bundle),
            f"vch-oracle-{os.getpid()}",
        ],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def through_ours(bundle: Path, spec: dict[str, Any], *arguments: str) -> str:
    (bundle / "ours.json").write_text(json.dumps(spec))
    done = subprocess.run(
        [
            *_UNIFIED,
            "/sys/fs/cgroup/vch-test",
            sys.executable,
            "-m",
            "tests.tether.launch.start",
            str(bundle / "ours.json"),
            "/sys/fs/cgroup/vch-test",
            *arguments,
        ],
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parent.parent.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def fields(text: str, *names: str) -> dict[str, str]:
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {name: found[name].strip() for name in names}


_STATUS = (
    "Umask", "Uid", "Gid", "Groups", "NSpid", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
    "NoNewPrivs", "Seccomp",
)  # fmt: skip

CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": ({}, {}),
    "privileged": ({}, {"Privileged": True}),
    "restricted": ({}, {"CapDrop": ["ALL"], "CapAdd": ["CHOWN", "NET_ADMIN"], "ReadonlyRootfs": True,
                        "SecurityOpt": ["no-new-privileges"], "OomScoreAdj": 500,
                        "Ulimits": [{"Name": "nofile", "Soft": 100, "Hard": 200}, {"Name": "core", "Soft": 0, "Hard": 0}]}),
    # HOME is given: crun sets none for a user that no passwd knows, runc and ours "/".
    "user": ({"WorkingDir": "/made/up", "Env": ["HOME=/"]}, {"GroupAdd": ["7", "8"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_status_limits_and_mounts_are_the_same(bundle: Path, case: str) -> None:
    config, host = CASES[case]
    (bundle / "rootfs/made/up").mkdir(parents=True)
    # /dev/core: crun links it always, runc and ours where the kernel has a kcore.
    script = (
        "cat /proc/self/status; echo ==; cat /proc/self/limits; echo ==; cat /proc/self/mountinfo; echo ==; "
        "env | sort; pwd; cat /proc/self/oom_score_adj; ls -l /dev | sed '/ core /d; s/ [A-Z][a-z][a-z] .*:.. / /'"
    )
    spec = spec_for(bundle, {**config, "Cmd": [script]}, host)
    if case == "user":
        spec["process"]["user"] |= {"uid": 1234, "gid": 56}
    ours = through_ours(bundle, spec).split("==\n")
    crun = through_crun(bundle, spec).split("==\n")
    assert fields(ours[0], *_STATUS) == fields(crun[0], *_STATUS)
    assert ours[1] == crun[1]
    assert mounts(ours[2]) == mounts(crun[2])
    assert ours[3] == crun[3]


def mounts(text: str) -> list[tuple[str, str, str, str]]:
    """(root, target, options, type) of each mount; numbers and the order of independent ones do not count."""
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        parts = before.split()
        options = parts[5]
        if after.split()[0] == "proc" and parts[4] != "/proc":
            # crun forgets nosuid and its kind on read-only paths; runc, and so Docker, keeps them.
            options = options.replace(",nosuid,nodev,noexec", "")
        if parts[3] == "/null":
            # Masked by a null device: crun takes the host's, runc and ours the container's own.
            options, after = "masked", "masked"
        found.append((re.sub(r"^/.*rootfs$", "ROOT", parts[3]), parts[4], options, after.split()[0]))
    return sorted(found)


def test_a_seccomp_filter_is_in_force(bundle: Path) -> None:
    spec = spec_for(
        bundle, {"Cmd": ["grep Seccomp: /proc/self/status; mkdir /denied 2>&1; touch /tmp/fine && echo made"]}, {}
    )
    spec["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    assert through_ours(bundle, spec) == through_crun(bundle, spec)


def test_a_process_in_namespaces_of_another_one(bundle: Path) -> None:
    """crun enters the namespaces whose `path` the spec has."""
    kinds = {"network": "net", "pid": "pid", "ipc": "ipc"}
    with subprocess.Popen(
        ["unshare", "--net", "--pid", "--ipc", "--fork", "sh", "-c", "echo; exec sleep 60"], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        pid = Path(f"/proc/{owner.pid}/task/{owner.pid}/children").read_text().strip()
        try:
            script = f"for kind in {' '.join(kinds.values())}; do readlink /proc/self/ns/$kind; done"
            script += "; ls -d /proc/1 /dev/mqueue; grep NSpid /proc/self/status | wc -w; ls /sys/class/net"
            spec = spec_for(bundle, {"Cmd": [script]}, {})
            ours = through_ours(bundle, spec, pid)
            for namespace in spec["linux"]["namespaces"]:
                if namespace["type"] in kinds:
                    namespace["path"] = f"/proc/{pid}/ns/{kinds[namespace['type']]}"
            spec["linux"]["namespaces"].append({"type": "network", "path": f"/proc/{pid}/ns/net"})
            assert ours == through_crun(bundle, spec)
            assert ours.split()[:3] == [os.readlink(f"/proc/{pid}/ns/{name}") for name in kinds.values()]
        finally:
            os.kill(int(pid), 9)
