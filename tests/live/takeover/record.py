"""Make the fixture of a version: its `state.db`, its data root, and what its API answers about them.

    python -m tests.live.takeover.record VERSION

That version's vchd creates containers of many kinds. Then vchd and the VMs are killed, as when a host goes down, and the data
root is packed into `data/VERSION.tar.zst` together with `expected.json`. Needs root, gcc (for `program.c`) and git history.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.live.daemon import Daemon
from tests.live.images import image_archive, layer_with
from tests.live.takeover.previous import previous
from tests.live.waiting import until

DATA = Path(__file__).with_name("data")
# Stands for the root in `expected.json`; in `state.db` it is the path at which the fixture was made.
ROOT = Path("/tmp/vch-takeover")

_COMPILER = [
    "gcc",
    "-Os",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-Wl,--build-id=none",
    "-Wl,-z,noseparate-code",
    "-s",
]
# Each must end by itself; "{ROOT}" is replaced.
_FOREVER = "sleep:100000000"
_CREATED = [
    ["created", "tool:1", "print:started later", "append:/data/log=later", "cat:/data/log"],
    ["created-published", "-p", "18080:80/tcp", "-p", "127.0.0.1:18053:53/udp", "tool:1", _FOREVER],
    [
        "created-limited",
        "--memory=64m",
        "--memory-reservation=32m",
        "--memory-swap=96m",
        "--cpus=0.5",
        "--cpu-shares=512",
        "--pids-limit=50",
        "--ulimit=nofile=100:200",
        "--ulimit=core=0",
        "--shm-size=32m",
        "--sysctl=net.ipv4.ip_forward=1",
        "--cap-add=NET_ADMIN",
        "--cap-drop=MKNOD",
        "--security-opt=no-new-privileges",
        "--read-only",
        "--group-add=1000",
        "--user=1000:1000",
        "--env=KEY=value with spaces",
        "--workdir=/data",
        "--hostname=limited",
        "--domainname=example.org",
        "--add-host=other:192.0.2.7",
        "--dns=192.0.2.53",
        "--dns-search=example.org",
        "--dns-option=ndots:2",
        "--stop-signal=SIGINT",
        "--stop-timeout=3",
        "--init",
        "--oom-score-adj=100",
        "--label=com.example.kind=limited",
        "tool:1",
        "print:limited",
    ],
    ["created-privileged", "--privileged", "--restart=unless-stopped", "tool:1", _FOREVER],
    ["created-alone", "--network=none", "--tmpfs=/t:size=1m,mode=1777", "--entrypoint=/bin/tool", "tool:1", "print:x"],
    ["created-silent", "--log-driver=none", "tool:1", "print:unheard"],
    [
        "created-bound",
        "--volume={ROOT}/bind:/bind:ro",
        "--mount=type=volume,source=named,target=/named,volume-nocopy",
        "--mount=type=bind,source={ROOT}/bind,target=/bind2",
        "--mount=type=tmpfs,target=/scratch,tmpfs-size=65536",
        "tool:1",
        "cat:/bind/file",
    ],
]
_STARTED = [
    ["running", "--volume=named:/named", "tool:1", "print:up", "append:/named/log=running", _FOREVER],
    ["exited", "--label=a=b", "tool:1", "print:out", "append:/data/log=first", "error:err", "cat:/data/log", "exit:3"],
    ["always", "--restart=always", "tool:1", "append:/data/log=run", "cat:/data/log", _FOREVER],
    ["on-failure", "--restart=on-failure:2", "tool:1", "print:again", "exit:5"],
    ["unless-stopped", "--restart=unless-stopped", "tool:1", "print:once", _FOREVER],
    ["terminal", "--tty", "--interactive", "--detach-keys=ctrl-x", "tool:1", "print:on a terminal", _FOREVER],
    ["healthy", "healthy:1", "print:well", _FOREVER],
    [
        "published",
        "--publish=18081:80/tcp",
        "--publish=127.0.0.1::5353/udp",
        "--expose=9999",
        "tool:1",
        _FOREVER,
    ],
    [
        "addressed",
        "--network=front",
        "--ip=10.77.0.9",
        "--network-alias=web",
        "--mac-address=02:42:0a:4d:00:99",
        "tool:1",
        _FOREVER,
    ],
    ["linked", "--link=running:db", "tool:1", "print:linked"],
    [
        "rotated",
        "--log-opt=max-size=1k",
        "--log-opt=max-file=3",
        "tool:1",
        *(f"print:{number} {'x' * 60}" for number in range(60)),
    ],
    ["local", "--log-driver=local", "tool:1", "print:kept locally", "error:and this"],
    ["anonymous", "--volume=/anonymous", "tool:1", "append:/anonymous/log=mine", "cat:/anonymous/log"],
    ["sharing", "--volumes-from=anonymous:ro", "tool:1", "cat:/anonymous/log"],
    ["sized", "--volume=sized:/sized", "tool:1", "append:/sized/log=sized", "cat:/sized/log"],
    ["paused", "tool:1", "print:before", _FOREVER],
    ["removed-when-ended", "--rm", "tool:1", _FOREVER],
    ["updated", "tool:1", _FOREVER],
    ["renamed-before", "tool:1", "print:named anew"],
    ["missing-program", "--entrypoint=/no/such", "tool:1"],
]
# Their start fails.
_NOT_STARTED = {"missing-program"}


@dataclass
class Answers:
    """The API's answers by request, and logs by the container's name. Stored as `expected.json`."""

    containers: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)
    volumes: dict[str, Any] = field(default_factory=dict)
    images: dict[str, Any] = field(default_factory=dict)
    listed_images: dict[str, Any] = field(default_factory=dict)
    logs: dict[str, list[str]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.__dict__, indent=1, sort_keys=True))

    @classmethod
    def read(cls, path: Path, root: Path) -> "Answers":
        """The answers of a fixture that was unpacked at `root`."""
        return cls(**json.loads(path.read_text().replace(str(ROOT), str(root))))


def ask(daemon: Daemon) -> Answers:
    """All that the API says about containers, networks, volumes and images."""
    answers = Answers()
    for item in _get(daemon, "/containers/json?all=1"):
        name = item["Names"][0].removeprefix("/")
        answers.listed[name] = item
        answers.containers[name] = _get(daemon, f"/containers/{name}/json")
        # The two streams, each with its times.
        done = daemon.docker("logs", "--timestamps", name)
        answers.logs[name] = [done.stdout, done.stderr]
    for item in _get(daemon, "/networks"):
        answers.networks[item["Name"]] = _get(daemon, f"/networks/{item['Id']}?verbose=1")
    for item in _get(daemon, "/volumes")["Volumes"]:
        answers.volumes[item["Name"]] = _get(daemon, f"/volumes/{item['Name']}")
    for item in _get(daemon, "/images/json"):
        key = min(item["RepoTags"] or [item["Id"]])
        answers.listed_images[key] = item
        answers.images[key] = _get(daemon, f"/images/{quote(item['Id'])}/json")
        answers.images[key]["History"] = _get(daemon, f"/images/{quote(item['Id'])}/history")
    return answers


def _get(daemon: Daemon, path: str) -> Any:
    command = ["curl", "-sf", "--unix-socket", str(daemon.socket), f"http://d{path}"]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def _program() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "tool")
        source = Path(__file__).with_name("program.c")
        subprocess.run([*_COMPILER, "-o", program, source], check=True)
        return program.read_bytes()


def _load_images(daemon: Daemon) -> None:
    layers = [layer_with("bin/tool", content=_program(), mode=0o755), layer_with("data/first"), layer_with("second")]
    config: dict[str, object] = {
        "Entrypoint": ["/bin/tool"],
        "Cmd": ["print:the image's own command"],
        "Env": ["PATH=/bin", "FROM=image"],
        "Labels": {"org.example.from": "image"},
        "ExposedPorts": {"80/tcp": {}},
        "StopSignal": "SIGKILL",
        "WorkingDir": "/",
    }
    daemon.must("load", stdin=image_archive(layers, config, "tool:1"))
    check = {"Test": ["CMD", "/bin/tool", "print:probed"], "Interval": 10**9}
    daemon.must("load", stdin=image_archive(layers[:2], config | {"Healthcheck": check}, "healthy:1"))
    daemon.must("tag", "tool:1", "registry.example.org/team/tool:stable")


def _create(daemon: Daemon) -> None:
    options = ["--subnet=10.77.0.0/24", "--gateway=10.77.0.254", "--label=a=b"]
    daemon.must("network", "create", *options, "--opt=com.docker.network.driver.mtu=1400", "front")
    daemon.must("network", "create", "--internal", "--subnet=10.78.0.0/24", "--ip-range=10.78.0.128/25", "back")
    daemon.must("volume", "create", "--label=x=y", "named")
    daemon.must("volume", "create", "--opt=size=16m", "sized")
    for name, *arguments in _STARTED:
        daemon.docker("run", "--detach", "--name", name, *arguments, check=name not in _NOT_STARTED)
    for name, *arguments in _CREATED:
        daemon.must("create", "--name", name, *(item.replace("{ROOT}", str(daemon.root)) for item in arguments))
    daemon.must("network", "connect", "--ip=10.78.0.200", "--alias=inner", "back", "addressed")
    daemon.must("stop", "unless-stopped")
    daemon.must("pause", "paused")
    daemon.must("update", "--memory=48m", "--restart=on-failure:7", "updated")
    daemon.must("rename", "renamed-before", "renamed")
    daemon.must("exec", "running", "/bin/tool", "append:/data/log=by exec")
    daemon.must("commit", "--message=kept", '--change=CMD ["cat:/data/log"]', "exited", "committed:1")
    daemon.must("run", "--name", "of-committed", "committed:1")


def _is(daemon: Daemon, name: str, template: str, value: str) -> None:
    until(lambda: daemon.must("inspect", name, "--format", template).strip() == value, 120, f"{name}: not {value}")


def main() -> None:
    version = sys.argv[1]
    found = previous(version)
    assert found is not None, f"git history has no version {version}"
    shutil.rmtree(ROOT, ignore_errors=True)
    (ROOT / "bind").mkdir(parents=True)
    (ROOT / "bind/file").write_text("of the host\n")
    ROOT.chmod(0o711)
    daemon = Daemon(ROOT)
    daemon.source, daemon.flags = found.source, ["--guest", str(found.guest), "--vm-pool", "0"]
    daemon.start()
    try:
        _load_images(daemon)
        _create(daemon)
        for name in ("exited", "on-failure", "linked", "rotated", "local", "anonymous", "sharing", "sized", "renamed"):
            _is(daemon, name, "{{.State.Status}}", "exited")
        _is(daemon, "on-failure", "{{.RestartCount}}", "2")
        _is(daemon, "healthy", "{{.State.Health.Status}}", "healthy")
        ask(daemon).write(ROOT / "expected.json")
        daemon.kill()
    finally:
        # The VMs, with vchd dead: they stop as a host that loses power stops them.
        daemon.close()
    for leftover in ("data/vchd.log", "data/lock", "data/state.db-shm"):
        (ROOT / leftover).unlink(missing_ok=True)
    DATA.mkdir(exist_ok=True)
    pack = ["tar", "--sparse", "--create", "--sort=name", "--numeric-owner", "data", "bind", "expected.json"]
    packed = subprocess.run(pack, cwd=ROOT, capture_output=True, check=True).stdout
    with open(DATA / f"{version}.tar.zst", "wb") as out:
        subprocess.run(["zstd", "-19", "--long=27"], input=packed, stdout=out, check=True)
    shutil.rmtree(ROOT)


if __name__ == "__main__":
    main()
