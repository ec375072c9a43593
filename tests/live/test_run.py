"""The first things that a user of the docker CLI does."""

import concurrent.futures
import hashlib
import http.server
import json
import os
import re
import subprocess
import threading
import time

import pytest

from tests.live.daemon import Daemon
from tests.live.terminal import Terminal
from tests.steps import cpu_seconds

pytestmark = pytest.mark.live

# The memory of a VM without limits.
SIZE_MIB = 2304


def test_echo_leaves_nothing_behind(daemon: Daemon) -> None:
    result = daemon.docker("run", "--rm", "--name", "echo", "busybox", "echo", "hi")
    assert (result.returncode, result.stdout, result.stderr) == (0, "hi\n", "")
    assert daemon.must("ps", "-aq", "--filter", "name=^echo$") == ""


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        (("sh", "-c", "exit 7"), 7, ""),
        (("/etc/passwd",), 126, "permission denied"),
        (("nothere",), 127, "executable file not found in $PATH"),
        (("/not/here",), 127, "no such file or directory"),
        (("sh", "-c", "kill -15 $$; sleep 5"), 0, ""),
    ],
)
def test_exit_codes(daemon: Daemon, command: tuple[str, ...], code: int, message: str) -> None:
    result = daemon.docker("run", "--rm", "busybox", *command)
    assert result.returncode == code
    assert message in result.stderr


def test_stop_and_kill_give_143_and_137(daemon: Daemon) -> None:
    script = "trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done"
    daemon.must("run", "-d", "--name", "stopped", "busybox", "sh", "-c", script)
    daemon.must("run", "-d", "--name", "killed", "busybox", "sleep", "1000")
    daemon.must("stop", "stopped")
    daemon.must("kill", "killed")
    assert daemon.must("wait", "stopped", "killed").split() == ["143", "137"]
    assert "Exited (137)" in daemon.must("ps", "-a", "--filter", "name=killed", "--format", "{{.Status}}")
    refused = daemon.docker("kill", "killed")
    assert refused.returncode == 1
    assert "is not running" in refused.stderr
    daemon.must("rm", "stopped", "killed")


def test_stdin_comes_back(daemon: Daemon) -> None:
    assert daemon.must("run", "--rm", "-i", "busybox", "cat", stdin=b"x\n") == "x\n"


def test_64_mib_there_and_back(daemon: Daemon) -> None:
    data = os.urandom(64 << 20)
    done = subprocess.run(
        daemon.command("run", "--rm", "-i", "busybox", "cat"), input=data, capture_output=True, timeout=300, check=True
    )
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_a_flood_of_line_feeds(daemon: Daemon) -> None:
    """`yes ""` made each ping take a second, and 7 MB of output took 293 MB of disk and 2 us a byte."""
    before = cpu_seconds(daemon.pid)
    daemon.must("run", "-d", "--name", "flood", "busybox", "sh", "-c", "yes '' | head -c 1000000")
    daemon.must("wait", "flood")
    assert cpu_seconds(daemon.pid) - before < 1.5
    identity = daemon.must("inspect", "-f", "{{.Id}}", "flood").strip()
    files = (daemon.root / "data").glob(f"containers/{identity}/log.*")
    assert sum(file.stat().st_blocks * 512 for file in files) < 10_000_000
    assert daemon.must("logs", "--tail", "3", "flood") == "\n" * 3
    assert daemon.must("logs", "flood") == "\n" * 1_000_000
    daemon.must("rm", "flood")


def test_logs_keep_streams_apart(daemon: Daemon) -> None:
    script = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; sleep 0.2; printf unfinished"
    daemon.must("run", "--name", "streams", "busybox", "sh", "-c", script)
    done = daemon.docker("logs", "streams")
    assert (done.stdout, done.stderr) == ("one\nthree\nunfinished", "two\n")
    assert daemon.must("logs", "--tail", "1", "streams") == "unfinished"
    assert daemon.docker("logs", "--tail", "2", "streams").stdout == "three\nunfinished"
    stamped = daemon.must("logs", "-t", "streams").splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z one", stamped[0])
    middle = stamped[1].split()[0]
    assert daemon.must("logs", "--since", middle, "streams") == "three\nunfinished"
    assert daemon.docker("logs", "--until", middle, "streams").stdout == "one\nthree\n"
    daemon.must("rm", "streams")


def test_start_with_attach_never_loses_the_line(daemon: Daemon) -> None:
    rounds = int(os.environ.get("VCH_ROUNDS", "8"))
    names = [f"line{number}" for number in range(2)]
    for name in names:
        daemon.must("create", "--name", name, "busybox", "echo", "the line")

    def one(number: int) -> str:
        name = names[number % 2]
        return daemon.must("start", "-a", name)

    for turn in range(0, rounds, 2):
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(one, (turn, turn + 1))) == ["the line\n"] * 2
    daemon.must("rm", *names)


def test_ten_at_once(daemon: Daemon) -> None:
    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        outputs = list(pool.map(lambda n: daemon.must("run", "--rm", "busybox", "echo", str(n)), range(10)))
    assert outputs == [f"{number}\n" for number in range(10)]


def test_terminal_resize_detach_attach(daemon: Daemon) -> None:
    terminal = Terminal(daemon, "run", "-it", "--name", "tty", "busybox", "sh")
    terminal.expect("# ")
    terminal.type("stty size; tty\n")
    terminal.expect("31 97")
    terminal.expect("/dev/pts/0")
    terminal.resize(40, 120)
    terminal.process.send_signal(28)  # SIGWINCH
    time.sleep(1)
    terminal.type("stty size\n")
    terminal.expect("40 120")
    terminal.type("\x10\x11")
    assert terminal.end() == 0
    assert daemon.must("inspect", "tty", "--format", "{{.State.Status}}").strip() == "running"
    terminal = Terminal(daemon, "attach", "tty")
    terminal.type("\necho back again\n")
    terminal.expect("back again\r\n")
    terminal.type("exit 3\n")
    assert terminal.end() == 3
    assert "back again" in daemon.must("logs", "tty")
    daemon.must("rm", "tty")


def test_follow_while_it_runs(daemon: Daemon) -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; sleep 0.3; done"
    daemon.must("run", "-d", "--name", "follow", "busybox", "sh", "-c", script)
    assert daemon.must("logs", "-f", "follow") == "".join(f"line {number}\n" for number in range(1, 6))
    daemon.must("rm", "follow")


def test_configuration_reaches_the_process(daemon: Daemon) -> None:
    options = (
        "--hostname",
        "box",
        "--domainname",
        "example.test",
        "--user",
        "nobody",
        "--workdir",
        "/made/here",
        "-e",
        "COLOUR=red",
        "--read-only",
        "--ulimit",
        "nofile=123:456",
        "--cap-drop",
        "ALL",
        "--label",
        "a=b",
        "--init",
        "-m",
        "64m",
        "--pids-limit",
        "77",
        "--tmpfs",
        "/scratch",
    )
    script = (
        "hostname; hostname -f; id -un; pwd; echo $COLOUR; ulimit -n; ulimit -Hn; grep CapEff /proc/self/status;"
        "touch /x 2>&1; touch /scratch/x && echo written; httpd -p 80 && echo listens;"
        "cat /proc/1/comm; cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max"
    )
    output = daemon.must("run", "--rm", *options, "busybox", "sh", "-c", script)
    assert output.splitlines() == [
        "box",
        "box.example.test",
        "nobody",
        "/made/here",
        "red",
        "123",
        "456",
        "CapEff:\t0000000000000000",
        "touch: /x: Read-only file system",
        "written",
        "listens",
        "docker-init",
        "67108864",
        "77",
    ]


def test_limits_are_those_of_a_docker_host(daemon: Daemon) -> None:
    """Without options: the limits of processes, and the kernel's settings that servers check at their start.

    CPUs and memory of the container, `docker info` and `docker stats` agree.
    """
    names = (
        "fs/file-max",
        "fs/inotify/max_user_watches",
        "kernel/pid_max",
        "kernel/threads-max",
        "vm/max_map_count",
        "net/ipv4/ip_forward",
    )
    script = (
        "nproc; sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; ulimit -Hn; ulimit -Sn; ulimit -u; ulimit -c;"
        f"cd /proc/sys; cat {' '.join(names)}; su -s /bin/sh nobody -c 'ulimit -Sn 10032; ulimit -n; ulimit -u'"
    )
    daemon.must(
        "run", "-d", "--name", "limits", "busybox", "sh", "-c", f"({script}) > /part; mv /part /limits; sleep 1000"
    )
    stats = json.loads(daemon.request("GET", "/containers/limits/stats?stream=0")[1])
    cpus, memory, *found = daemon.must(
        "exec", "limits", "sh", "-c", "until cat /limits 2>/dev/null; do sleep 0.1; done"
    ).split()
    daemon.must("rm", "-f", "limits")
    assert int(cpus) == stats["cpu_stats"]["online_cpus"]
    assert int(memory) << 10 == stats["memory_stats"]["limit"]
    info = json.loads(daemon.request("GET", "/info")[1])
    facts = dict(info["DriverStatus"])
    assert (facts["VM CPUs"], facts["VM memory"], info["NCPU"]) == (cpus, f"{SIZE_MIB} MiB", int(cpus))
    # All of the 2 GiB are for the container.
    assert 2048 <= int(memory) >> 10 < SIZE_MIB
    assert found == [
        *("1048576", "1024", "unlimited", "unlimited"),
        *(str((1 << 63) - 1), "1048576", "4194304", "131072", "1048576", "1"),
        *("10032", "unlimited"),
    ]


def test_network_reaches_out_and_names_resolve_locally(host_daemon: Daemon) -> None:
    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"from outside")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Hello)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        # With user-mode networking, the gateway's address leads to the host's loopback.
        script = (
            f"wget -qO- http://172.17.0.1:{server.server_port}/; echo; ip -o -4 addr show eth0; grep box /etc/hosts;"
            "ping -c1 box >/dev/null && echo resolves"
        )
        lines = host_daemon.must(
            "run", "--rm", "--hostname", "box.example.org", "busybox", "sh", "-c", script
        ).splitlines()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert lines[0] == "from outside"
    address = re.search(r"inet (172\.17\.\d+\.\d+)/16", lines[1])
    assert address is not None
    assert lines[2:] == [f"{address[1]}\tbox.example.org box", "resolves"]


def test_what_is_written_survives_a_restart(daemon: Daemon) -> None:
    daemon.must("run", "--name", "keeps", "busybox", "sh", "-c", "test -e /file && cat /file; echo kept > /file")
    assert daemon.must("start", "-a", "keeps") == "kept\n"
    daemon.must("rm", "keeps")


def test_events_of_a_run(daemon: Daemon) -> None:
    since = str(time.time())
    daemon.must("run", "--rm", "--name", "eventful", "busybox", "true")
    lines = daemon.must(
        "events",
        "--since",
        since,
        "--until",
        str(time.time() + 1),
        "--filter",
        "container=eventful",
        "--format",
        "{{.Action}}",
    ).split()
    assert lines == ["create", "attach", "start", "die", "destroy"]
