"""docker exec: further processes in a running container."""

import concurrent.futures
import json
import os
import pty
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.live.daemon import Daemon, running_daemon
from tests.live.waiting import until

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def box(daemon: Daemon) -> Iterator[str]:
    daemon.must("run", "-d", "--name", "execbox", "-e", "OF=container", "-w", "/var", "busybox", "sleep", "100000")
    yield "execbox"
    daemon.must("rm", "-f", "execbox")


def test_output_code_and_streams(daemon: Daemon, box: str) -> None:
    result = daemon.docker("exec", box, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 7)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["nosuch"], 127, 'exec: "nosuch": executable file not found in $PATH'),
        (["/nosuch"], 127, 'exec: "/nosuch": stat /nosuch: no such file or directory'),
        (["/etc"], 126, 'exec: "/etc"'),
        (["-u", "nobodyhere", "true"], 126, "unable to find user nobodyhere: no matching entries in passwd file"),
        (["-w", "/nodir", "true"], 126, 'chdir to cwd ("/nodir") set in config.json failed: no such file or directory'),
    ],
)
def test_what_cannot_be_started(daemon: Daemon, box: str, arguments: list[str], code: int, text: str) -> None:
    flags = [word for word in arguments if word != arguments[-1]]
    result = daemon.docker("exec", *flags, box, arguments[-1])
    assert result.returncode == code
    assert text in result.stdout + result.stderr


def test_environment_directory_and_user(daemon: Daemon, box: str) -> None:
    script = "echo $OF $MORE $PWD $(id -u) $(id -g)"
    assert daemon.must("exec", box, "sh", "-c", script) == "container /var 0 0\n"
    flags = ("-e", "MORE=exec", "-e", "OF=both", "-w", "/tmp", "-u", "12:34")
    assert daemon.must("exec", *flags, box, "sh", "-c", script) == "both exec /tmp 12 34\n"


def test_privileged_has_all_capabilities(daemon: Daemon, box: str) -> None:
    ask = ("grep", "CapEff", "/proc/self/status")
    assert int(daemon.must("exec", box, *ask).split()[1], 16) == 0xA80425FB
    assert int(daemon.must("exec", "--privileged", box, *ask).split()[1], 16) == 0x1FFFFFFFFFF


def test_an_exec_sees_the_containers_processes(daemon: Daemon, box: str) -> None:
    processes = daemon.must("exec", box, "ps").splitlines()
    assert any("sleep 100000" in line and line.split()[0] == "1" for line in processes)
    assert not any("tether" in line for line in processes)


def test_a_container_with_cgroups_of_its_own(daemon: Daemon) -> None:
    # As systemd, kind and docker in docker do: a cgroup that has controllers for those below can hold no process.
    # The kernel refuses the controllers while a health probe is in the upper cgroup.
    script = (
        "cd /sys/fs/cgroup; mkdir init; echo 1 > init/cgroup.procs;"
        "until echo '+pids +memory' > cgroup.subtree_control; do sleep 0.01; done;"
        "echo extra:x:77:root >> /etc/group; echo nested; exec sleep 1000"
    )
    flags = ("--privileged", "--health-cmd", "cat /proc/self/cgroup; id -G", "--health-interval", "300ms")
    daemon.must("run", "-d", "--name", "nested", *flags, "busybox", "sh", "-c", script)
    try:
        until(lambda: "nested" in daemon.must("logs", "nested"))
        ask = "cat /proc/self/cgroup; id -G"
        # Root is in its groups of /etc/group, as in the container's first process.
        assert daemon.must("exec", "nested", "sh", "-c", ask) == "0::/init\n0 77\n"
        probes = "{{range .State.Health.Log}}{{.ExitCode}} {{.Output}}{{end}}"
        until(lambda: "0 0::/init\n0 77" in daemon.must("inspect", "nested", "--format", probes))
        assert "sleep 1000" in daemon.must("top", "nested")
        # A privileged container has the guest's devices, but not the tether's.
        devices = daemon.must("exec", "nested", "find", "/dev").split()
        assert {"/dev/kmsg", "/dev/fuse", "/dev/net/tun"} <= set(devices)
        assert not [name for name in devices if "vport" in name or "ttyS" in name]
        daemon.must("pause", "nested")
        daemon.must("unpause", "nested")
    finally:
        daemon.must("rm", "-f", "nested")


def test_stdin_is_passed_on_and_ends(daemon: Daemon, box: str) -> None:
    data = os.urandom(3 << 20)
    result = subprocess.run(
        daemon.command("exec", "-i", box, "cat"), input=data, capture_output=True, timeout=120, check=True
    )
    assert result.stdout == data


def test_a_terminal_with_its_size_and_detach_keys(daemon: Daemon, box: str) -> None:
    leader, follower = pty.openpty()
    subprocess.run(["stty", "rows", "31", "cols", "97"], stdin=follower, check=True)
    command = daemon.command("exec", "-it", box, "sh")
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, start_new_session=True)
    os.close(follower)

    def until(text: bytes) -> bytes:
        seen = b""
        while text not in seen:
            seen += os.read(leader, 4096)
        return seen

    os.write(leader, b"stty size; test -t 0 && echo is a term''inal\n")
    assert b"31 97" in until(b"is a terminal")
    os.write(leader, b"\x10\x11")
    process.wait(60)
    os.close(leader)
    # The process still runs after the detach.
    assert "sh" in daemon.must("exec", box, "ps", "-o", "comm").split()
    daemon.must("exec", box, "killall", "sh")


def test_fifty_at_once(daemon: Daemon, box: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: daemon.docker("exec", box, "sh", "-c", f"echo {n}; exit {n}"), range(50)))
    assert [(one.stdout, one.returncode) for one in answers] == [(f"{n}\n", n) for n in range(50)]


def test_inspect_and_conflicts(daemon: Daemon, box: str) -> None:
    client = docker.APIClient(base_url=daemon.host)
    exec_id = client.exec_create(box, ["sh", "-c", "sleep 1; exit 3"], user="5")["Id"]
    shown = client.exec_inspect(exec_id)
    assert (shown["Running"], shown["ExitCode"], shown["Pid"]) == (False, None, 0)
    assert shown["ProcessConfig"] == {
        "tty": False,
        "entrypoint": "sh",
        "arguments": ["-c", "sleep 1; exit 3"],
        "privileged": False,
        "user": "5",
    }
    client.exec_start(exec_id, detach=True)
    shown = client.exec_inspect(exec_id)
    assert (shown["Running"], shown["ExitCode"]) == (True, None)
    assert shown["Pid"] > 0
    assert exec_id in client.inspect_container(box)["ExecIDs"]
    assert daemon.request("POST", f"/exec/{exec_id}/start", {"Detach": True}) == (
        409,
        f"Error: Exec command {exec_id} is already running",
    )
    deadline = time.monotonic() + 60
    while client.exec_inspect(exec_id)["Running"]:
        assert time.monotonic() < deadline
    assert client.exec_inspect(exec_id)["ExitCode"] == 3
    with pytest.raises(docker.errors.APIError, match="has already run"):
        client.exec_start(exec_id, detach=True)
    # docker-py reads the answer of an attached start as it comes, and asks for the code at once.
    exec_id = client.exec_create(box, ["sh", "-c", "echo text; exit 4"])["Id"]
    assert client.exec_start(exec_id) == b"text\n"
    assert client.exec_inspect(exec_id)["ExitCode"] == 4
    client.close()


def test_what_is_refused(daemon: Daemon, box: str) -> None:
    daemon.must("create", "--name", "notyet", "busybox", "true")
    notyet = daemon.must("inspect", "notyet", "--format", "{{.Id}}").strip()
    command = {"Cmd": ["true"]}
    at = f"/containers/{box}/exec"
    assert daemon.request("POST", "/containers/nobody/exec", command) == (404, "No such container: nobody")
    assert daemon.request("POST", "/containers/notyet/exec", command) == (409, f"container {notyet} is not running")
    assert daemon.request("POST", at, {"Cmd": []}) == (400, "No exec command specified")
    wrong: tuple[object, ...] = (
        {"Cmd": "true"},
        {"Cmd": [1]},
        {"Cmd": ["a\0b"]},
        {"Cmd": ["a"], "Env": "A=b"},
        {"Cmd": ["a"], "Tty": 1},
        [],
        {"Cmd": ["a"], "DetachKeys": "foo"},
        {"Cmd": ["a"], "WorkingDir": "rel"},
    )
    for bad in wrong:
        assert daemon.request("POST", at, bad)[0] == 400, bad
    # Docker ignores members that it does not know.
    assert daemon.request("POST", at, {"Cmd": ["a"], "Unknown": 1})[0] == 201
    assert daemon.request("POST", "/exec/nope/start", {}) == (404, "No such exec instance: nope")
    assert daemon.request("GET", "/exec/nope/json") == (404, "No such exec instance: nope")
    daemon.must("rm", "notyet")


def test_events_of_an_exec(daemon: Daemon, box: str) -> None:
    since = str(time.time())
    daemon.docker("exec", box, "sh", "-c", "exit 9")
    lines = daemon.must("events", "--since", since, "--until", str(time.time()), "--format", "{{json .}}").splitlines()
    events = [json.loads(line) for line in lines]
    actions = [event["Action"] for event in events if event["Actor"]["Attributes"]["name"] == box]
    assert actions == ["exec_create: sh -c exit 9", "exec_start: sh -c exit 9", "exec_die"]
    assert events[-1]["Actor"]["Attributes"]["exitCode"] == "9"


def test_it_ends_with_its_container(daemon: Daemon) -> None:
    daemon.must("run", "-d", "--name", "ending", "busybox", "sleep", "100000")
    command = daemon.command("exec", "ending", "sh", "-c", "echo here; sleep 100000")
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    daemon.must("kill", "ending")
    assert process.wait(60) != 0
    process.stdout.close()
    assert json.loads(daemon.must("inspect", "ending", "--format", "{{json .ExecIDs}}")) is None
    daemon.must("rm", "ending")


def test_an_exec_goes_on_when_vchd_is_killed(short_path: Path) -> None:
    with running_daemon(short_path) as daemon:
        daemon.must("run", "-d", "--name", "outlive", "busybox", "sleep", "100000")
        # More output than the guest's spool holds: the process would block if vchd did not read it.
        script = "dd if=/dev/zero bs=64k count=100 2>/dev/null; echo done > /done"
        daemon.must("exec", "-d", "outlive", "sh", "-c", f"sleep 2; {script}")
        daemon.kill()
        daemon.start()
        deadline = time.monotonic() + 60
        while daemon.docker("exec", "outlive", "cat", "/done").stdout != "done\n":
            assert time.monotonic() < deadline
            time.sleep(0.3)
        daemon.must("rm", "-f", "outlive")
