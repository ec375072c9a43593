"""Health checks, and logs that are kept short."""

import json
import time

import pytest

from tests.live.daemon import Daemon

pytestmark = pytest.mark.live


def _health(daemon: Daemon, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(daemon.must("inspect", name, "--format", "{{json .State.Health}}"))
    return found


def _until(daemon: Daemon, name: str, status: str) -> dict[str, object]:
    deadline = time.monotonic() + 60
    while (health := _health(daemon, name))["Status"] != status:
        assert time.monotonic() < deadline, health
        time.sleep(0.1)
    return health


def test_starting_healthy_unhealthy_and_back(daemon: Daemon) -> None:
    flags = ("--health-cmd", "echo seen; test -e /well", "--health-interval", "300ms", "--health-retries", "2")
    daemon.must("run", "-d", "--name", "sick", *flags, "busybox", "sleep", "1000")
    assert _health(daemon, "sick")["Status"] == "starting"
    assert "(health: starting)" in daemon.must("ps", "--filter", "name=sick", "--format", "{{.Status}}")
    health = _until(daemon, "sick", "unhealthy")
    assert health["FailingStreak"] == 2
    daemon.must("exec", "sick", "touch", "/well")
    _until(daemon, "sick", "healthy")
    assert daemon.must("ps", "-q", "--filter", "health=healthy", "--filter", "name=sick")
    assert daemon.must("ps", "-q", "--filter", "health=unhealthy", "--filter", "name=sick") == ""
    time.sleep(2)
    log = _health(daemon, "sick")["Log"]
    assert isinstance(log, list)
    assert len(log) == 5
    assert (log[-1]["ExitCode"], log[-1]["Output"]) == (0, "seen\n")
    words = daemon.must(
        "events", "--since", "1m", "--until", str(time.time()), "--filter", "container=sick", "--format", "{{.Action}}"
    ).splitlines()
    assert [word for word in words if word.startswith("health")] == [
        "health_status: unhealthy",
        "health_status: healthy",
    ]
    daemon.must("stop", "-t", "0", "sick")
    daemon.must("rm", "sick")


def test_a_probe_that_hangs_is_ended(daemon: Daemon) -> None:
    flags = (
        "--health-cmd",
        "sleep 100",
        "--health-interval",
        "200ms",
        "--health-timeout",
        "400ms",
        "--health-retries",
        "1",
    )
    daemon.must("run", "-d", "--name", "hangs", *flags, "busybox", "sleep", "1000")
    log = _until(daemon, "hangs", "unhealthy")["Log"]
    assert isinstance(log, list)
    assert log[0]["ExitCode"] == -1
    assert "exceeded timeout (0.4s)" in log[0]["Output"]
    deadline = time.monotonic() + 60
    while len(daemon.must("top", "hangs", "-o", "pid,args").splitlines()) > 3:
        assert time.monotonic() < deadline
    daemon.must("rm", "-f", "hangs")


def test_failures_of_the_start_period_do_not_count_and_none_switches_off(daemon: Daemon) -> None:
    flags = (
        "--health-cmd",
        "false",
        "--health-interval",
        "200ms",
        "--health-retries",
        "1",
        "--health-start-period",
        "100s",
    )
    daemon.must("run", "-d", "--name", "slow", *flags, "busybox", "sleep", "1000")
    deadline = time.monotonic() + 60
    while not _health(daemon, "slow")["Log"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert _health(daemon, "slow")["Status"] == "starting"
    daemon.must("rm", "-f", "slow")
    daemon.must("run", "-d", "--name", "none", "--no-healthcheck", "busybox", "sleep", "1000")
    assert json.loads(daemon.must("inspect", "none", "--format", "{{json .State}}")).get("Health") is None
    daemon.must("rm", "-f", "none")


@pytest.mark.parametrize("driver", ["json-file", "local"])
def test_max_size_and_max_file_bound_a_log(daemon: Daemon, driver: str) -> None:
    flags = ("--log-driver", driver, "--log-opt", "max-size=100k", "--log-opt", "max-file=3")
    script = "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i 0123456789012345678901234567890123456789; done"
    daemon.must("run", "-d", "--name", "talks", *flags, "busybox", "sh", "-c", script)
    assert daemon.must("wait", "talks") == "0\n"
    lines = daemon.must("logs", "talks").splitlines()
    numbers = [int(line.split()[1]) for line in lines]
    assert numbers == list(range(numbers[0], 20001))
    # The last of three files may be short; 1 k is 1024 bytes. The index counts, too: 40 bytes for lines that came at once, at
    # worst for each line of some 50 bytes.
    assert 2 * 100 * 1024 // 2 < sum(len(line) + 9 for line in lines) <= 3 * 100 * 1024
    assert daemon.must("logs", "--tail", "2", "talks").split()[1] == "19999"
    container = daemon.must("inspect", "talks", "--format", "{{.Id}}").strip()
    used = sum(path.stat().st_blocks * 512 for path in (daemon.root / "data/containers" / container).glob("log.*"))
    assert used < 700_000
    daemon.must("rm", "talks")


def test_devices_groups_and_seccomp_profiles(daemon: Daemon) -> None:
    profile = json.dumps(
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}
    )
    (daemon.root / "profile.json").write_text(profile)
    flags = (
        "--device",
        "/dev/fuse:/dev/mine",
        "--group-add",
        "root",
        "--security-opt",
        f"seccomp={daemon.root}/profile.json",
    )
    said = daemon.docker("run", "--rm", *flags, "busybox", "sh", "-c", "stat -c %F /dev/mine; mkdir /x; id -G")
    assert said.stdout.splitlines() == ["character special file", "0"]
    assert "Operation not permitted" in said.stderr
    said = daemon.docker(
        "run",
        "--rm",
        "--ipc",
        "host",
        "--uts",
        "host",
        "--mount",
        "type=tmpfs,target=/t,tmpfs-size=1m",
        "busybox",
        "df",
        "/t",
    )
    assert "1024" in said.stdout
