"""Containers that share a machine: what each of them sees of the others, which one may go first, and what a killed vchd leaves."""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.daemon import PATIENCE, Daemon, on_qemu, running_daemon
from tests.live.images import busybox_archive
from tests.live.oracle import dockerd
from tests.live.waiting import until

pytestmark = [
    pytest.mark.live,
    on_qemu,
    pytest.mark.skipif(not os.environ.get("VCH_TEST_SHARED"), reason="takes minutes without KVM: make test-shared"),
    pytest.mark.skipif(os.geteuid() != 0, reason="networks need the rights of root"),
]


_SERVER = """
$s = IO::Socket::UNIX->new(Local => "/run/s/sock", Listen => 9) or die;
while ($c = $s->accept) { print $c "answer\\n"; close $c }
"""
_CLIENT = '$c = IO::Socket::UNIX->new(Peer => "/run/s/sock") or die "$!"; print <$c>'


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running_daemon(tmp_path_factory.mktemp("pods")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def web(daemon: Daemon) -> str:
    """A container with a web server, whose namespaces others join. Its machine has room for them."""
    daemon.must(
        "run", "-d", "--name", "web", "--hostname", "webhost", "--ipc", "shareable", "-p", "8080:80", "-p", "8081:81",
        "busybox", "sh", "-c", "mkdir /www; echo first > /www/index.html; echo here > /dev/shm/note; exec httpd -f -p 80 -h /www",
    )  # fmt: skip
    return "web"


def _state(daemon: Daemon, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(daemon.must("inspect", name, "--format", "{{json .State}}"))
    return found


def _machines(daemon: Daemon) -> int:
    return len([entry for entry in (daemon.root / "exec/machines").iterdir() if len(entry.name) == 64])


def test_a_joiner_sees_the_network_the_processes_and_the_memory_of_the_other(daemon: Daemon, web: str) -> None:
    machines = _machines(daemon)
    script = (
        "wget -qO- http://127.0.0.1/ && hostname && cat /dev/shm/note && ps -o pid,args | grep -c '[h]ttpd -f'"
        " && grep -c webhost /etc/hosts"
        " && echo more > /dev/shm/other"
    )
    shares = [f"--{kind}=container:{web}" for kind in ("network", "pid", "ipc")]
    done = daemon.docker("run", "--name", "side", *shares, "busybox", "sh", "-c", script, check=True)
    assert done.stdout.split() == ["first", "webhost", "here", "1", "1"]
    assert daemon.must("exec", web, "cat", "/dev/shm/other") == "more\n"
    assert _machines(daemon) == machines
    shown = json.loads(daemon.must("inspect", "side"))[0]
    assert shown["Config"]["Hostname"] == "webhost"
    assert (shown["NetworkSettings"]["Networks"], shown["NetworkSettings"]["Ports"]) == ({}, {})
    # Alone again: it starts once more, with a disk that has what it wrote.
    daemon.must("start", "-a", "side")
    daemon.must("rm", "side")


def test_ports_of_the_other_reach_a_joiner_and_its_own_life_goes_on(daemon: Daemon, web: str) -> None:
    daemon.must(
        "run", "-d", "--name", "second", "--network", f"container:{web}", "-m", "64m", "busybox",
        "sh", "-c", "mkdir /w; echo second > /w/index.html; echo up; exec httpd -f -p 81 -h /w",
    )  # fmt: skip
    fetched = ["wget", "-qO-", "http://127.0.0.1:8081/"]
    until(lambda: daemon.run_inside(*fetched, check=False) == "second\n", what="the published port leads nowhere")
    assert daemon.must("exec", "second", "cat", "/w/index.html") == "second\n"
    assert daemon.must("logs", "second") == "up\n"
    assert "httpd -f -p 81" in daemon.must("top", "second")
    assert "httpd -f -p 80" not in daemon.must("top", "second")
    daemon.must("restart", "-t", "0", "second")
    until(lambda: daemon.run_inside(*fetched, check=False) == "second\n", what="the restarted container is not reached")
    assert daemon.must("exec", web, "cat", "/www/index.html") == "first\n"
    daemon.must("pause", "second")
    assert daemon.must("exec", web, "echo", "runs") == "runs\n"
    daemon.must("unpause", "second")
    daemon.must("rm", "-f", "second")


def test_a_joiner_of_pids_dies_with_the_other_and_a_joiner_of_the_network_does_not(daemon: Daemon) -> None:
    daemon.must("run", "-d", "--name", "owner", "busybox", "sleep", "1000")
    for name, kind in (("byte", "pid"), ("wire", "network")):
        daemon.must("run", "-d", "--name", name, f"--{kind}=container:owner", "busybox", "sleep", "1000")
    daemon.must("stop", "-t", "0", "owner")
    until(lambda: _state(daemon, "byte")["Status"] == "exited", what="the joiner of PIDs runs on")
    assert _state(daemon, "byte")["ExitCode"] == 137
    assert _state(daemon, "wire")["Running"] is True
    assert daemon.must("exec", "wire", "sh", "-c", "ls /sys/class/net").split() == ["lo"]
    refused = daemon.docker("start", "byte")
    assert "failed to join PID namespace: container" in refused.stderr
    # The owner comes back into the machine, in a network of its own.
    daemon.must("start", "owner")
    assert "eth0" in daemon.must("exec", "owner", "ls", "/sys/class/net")
    daemon.must("start", "byte")
    daemon.must("rm", "-f", "owner", "byte", "wire")
    until(lambda: not any(_running(daemon, name) for name in ("owner", "byte", "wire")))


def _running(daemon: Daemon, name: str) -> bool:
    return daemon.docker("inspect", name).returncode == 0


def test_a_label_puts_containers_into_one_machine_where_sockets_connect(daemon: Daemon) -> None:
    programs = [option for path in ("/usr", "/lib", "/lib64") for option in ("-v", f"{path}:{path}:ro")]
    for name in ("php", "nginx", "far"):
        label = [] if name == "far" else ["--label", "vch.machine=site"]
        daemon.must("create", "--name", name, *label, *programs, "-v", "run:/run/s", "busybox", "sleep", "1000")
    machines = _machines(daemon)
    for name in ("php", "nginx", "far"):
        daemon.must("start", name)
    assert _machines(daemon) == machines + 2
    daemon.must("exec", "-d", "php", "/usr/bin/perl", "-MIO::Socket::UNIX", "-e", _SERVER)
    daemon.must("exec", "nginx", "sh", "-c", "while ! test -S /run/s/sock; do sleep 0.1; done")
    connect = ("/usr/bin/perl", "-MIO::Socket::UNIX", "-e", _CLIENT)
    assert daemon.must("exec", "nginx", *connect) == "answer\n"
    assert "Connection refused" in daemon.docker("exec", "far", *connect).stderr
    daemon.must("rm", "-f", "php", "nginx", "far")
    daemon.must("volume", "rm", "run")


def _await_more_lines(daemon: Daemon, name: str) -> None:
    before = len(daemon.must("logs", name).splitlines())
    until(lambda: len(daemon.must("logs", name).splitlines()) > before + 3, what=f"{name} logs nothing")


def test_a_killed_vchd_finds_all_containers_of_a_machine(daemon: Daemon, web: str) -> None:
    for name in ("one", "two"):
        daemon.must(
            "run", "-d", "--name", name, "--network", f"container:{web}", "busybox",
            "sh", "-c", f"i=0; while true; do echo {name} $i; i=$((i+1)); sleep 0.2; done",
        )  # fmt: skip
    daemon.kill()
    daemon.start()
    for name in ("one", "two"):
        _await_more_lines(daemon, name)
        lines = daemon.must("logs", name).splitlines()
        assert lines == [f"{name} {number}" for number in range(len(lines))]
    daemon.must("stop", "-t", "0", "one")
    assert _state(daemon, "two")["Running"] is True
    daemon.must("rm", "-f", "one", "two")


# A web server, and containers that share its network, its PIDs, or both.
_SHARING = {"wire": ["--network=container:site"], "byte": ["--pid=container:site"]}
_SHARING["both"] = _SHARING["wire"] + _SHARING["byte"]
_FETCH = "wget -qO- http://127.0.0.1/"
# What clients do then. `wait` waits until those that share the PIDs have ended.
_LIFE = (
    "exec byte grep -l httpd /proc/1/cmdline",
    f"exec both {_FETCH}",
    "restart -t 0 wire",
    f"exec wire {_FETCH}",
    # The owner stops first.
    "stop -t 0 site",
    "wait byte both",
    "exec wire ls /sys/class/net",
    "start byte",
    "start both",
    "restart -t 0 wire",
    "start wire",
    "start site",
    "start wire byte both",
    f"exec wire {_FETCH}",
    "restart -t 0 site",
    "wait byte both",
    "exec wire ls /sys/class/net",
    "rm -f site",
    "stop -t 0 wire",
    "start wire",
    "start byte",
)


def _life(host: str) -> list[tuple[str, int, str, list[str]]]:
    """Each command, its exit code, its output, and the states of all containers after it."""

    def docker(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["docker", "-H", host, *words], capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    serve = "mkdir /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www"
    assert docker("run", "-d", "--name", "site", "busybox", "sh", "-c", serve).returncode == 0
    for name, options in _SHARING.items():
        assert docker("run", "-d", "--name", name, *options, "busybox", "sleep", "1000").returncode == 0
    told = []
    for line in _LIFE:
        done = docker(*line.split())
        states = docker("inspect", "site", *_SHARING, "--format", "{{.Name}} {{.State.Status}} {{.State.ExitCode}}")
        told.append((line, done.returncode, done.stdout, states.stdout.splitlines()))
    docker("rm", "-f", *_SHARING)
    return told


def test_containers_that_share_live_and_end_as_with_dockerd(daemon: Daemon) -> None:
    with tempfile.TemporaryDirectory(prefix="vch-", dir="/tmp") as path, dockerd(Path(path), bridge=True) as other:
        if other is None:
            pytest.skip("no dockerd can run here")
        loaded = subprocess.run(
            ["docker", "-H", f"unix://{other}", "load"], input=busybox_archive(), capture_output=True, check=False
        )
        assert loaded.returncode == 0, loaded.stderr
        theirs = _life(f"unix://{other}")
    assert [code for _, code, _, _ in theirs].count(1) == 6
    assert _life(daemon.host) == theirs
