"""Every container row of the Docker remote API, a test each, by raw requests of docker-py."""

import base64
import contextlib
import datetime
import gc
import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from typing import Any

import docker
import pytest

from tests.live.daemon import Daemon
from tests.live.websocket import WebSocket

pytestmark = [
    pytest.mark.live,
    # docker-py leaves the connections of its streams to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def api(daemon: Daemon) -> Iterator[Any]:
    client = docker.APIClient(base_url=daemon.host, timeout=60)
    yield client
    client.close()
    gc.collect()


@pytest.fixture(scope="module")
def box(daemon: Daemon) -> Iterator[str]:
    """A running container with a terminal, which reads its stdin."""
    daemon.must("run", "-dit", "--name", "rowbox", "busybox", "sh")
    yield "rowbox"
    daemon.must("rm", "-f", "rowbox")


@pytest.fixture(scope="module")
def said(daemon: Daemon) -> Iterator[str]:
    """A container that wrote to both streams and exited with 3."""
    daemon.docker(
        "run",
        "--name",
        "rowsaid",
        "busybox",
        "sh",
        "-c",
        "echo out1; sleep 0.3; echo err1 >&2; sleep 1; echo out2; exit 3",
    )
    yield "rowsaid"
    daemon.must("rm", "-f", "rowsaid")


@pytest.fixture
def cat(daemon: Daemon) -> Iterator[str]:
    """A container that writes its stdin to its stdout."""
    daemon.must("create", "-i", "--name", "rowcat", "busybox", "sh", "-c", "echo first; echo second >&2; cat")
    yield "rowcat"
    daemon.must("rm", "-f", "rowcat")


def test_list(api: Any, box: str, said: str) -> None:
    names = {name for one in api.containers(all=True) for name in one["Names"]}
    assert {"/rowbox", "/rowsaid"} <= names
    (found,) = api.containers(filters={"name": "^/rowbox$"}, size=True)
    assert (found["State"], found["Image"], found["Command"]) == ("running", "busybox", "sh")
    assert found["SizeRootFs"] >= found["SizeRw"] > 0


def test_create_and_remove(api: Any) -> None:
    made = api.create_container("busybox", ["true"], name="rowmade", labels={"row": "create"})
    assert api.containers(all=True, filters={"label": "row=create"})[0]["Id"] == made["Id"]
    api.remove_container("rowmade", v=True)
    with pytest.raises(docker.errors.NotFound):
        api.inspect_container(made["Id"])


def test_remove_force(daemon: Daemon, api: Any) -> None:
    daemon.must("run", "-d", "--name", "rowforce", "busybox", "sleep", "1000")
    with pytest.raises(docker.errors.APIError, match="is running"):
        api.remove_container("rowforce")
    api.remove_container("rowforce", force=True)
    assert not api.containers(all=True, filters={"name": "rowforce"})


def test_inspect(api: Any, box: str) -> None:
    found = api.inspect_container(box)
    assert found["State"]["Status"] == "running"
    assert found["Config"]["Tty"] is True
    assert found["HostConfig"]["ShmSize"] == 64 << 20


def test_processes(api: Any, box: str) -> None:
    found = api.top(box)
    assert found["Titles"][:2] == ["UID", "PID"]
    assert [row[-1] for row in found["Processes"]] == ["sh"]
    assert api.top(box, ps_args="-o pid,comm") == {
        "Titles": ["PID", "COMMAND"],
        "Processes": [[found["Processes"][0][1], "sh"]],
    }
    with pytest.raises(docker.errors.APIError, match="Couldn't find PID field"):
        api.top(box, ps_args="-o comm")


def test_logs_stdout_and_stderr(api: Any, said: str) -> None:
    assert api.logs(said, stdout=True, stderr=False) == b"out1\nout2\n"
    assert api.logs(said, stdout=False, stderr=True) == b"err1\n"


def test_logs_tail(api: Any, said: str) -> None:
    assert api.logs(said, tail=1) == b"out2\n"


def test_logs_timestamps_and_since(api: Any, said: str) -> None:
    lines = api.logs(said, timestamps=True, stderr=False).decode().splitlines()
    assert [line.split(" ")[1] for line in lines] == ["out1", "out2"]
    second = datetime.datetime.fromisoformat(f"{lines[1].split(' ')[0][:26]}+00:00").timestamp()
    assert api.logs(said, since=second - 0.01) == b"out2\n"


def test_logs_follow(daemon: Daemon, api: Any) -> None:
    daemon.must(
        "run", "-d", "--name", "rowfollow", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.3; done"
    )
    assert b"".join(api.logs("rowfollow", stream=True, follow=True)) == b"1\n2\n3\n"
    daemon.must("rm", "rowfollow")


def test_changes(daemon: Daemon, api: Any) -> None:
    daemon.docker("run", "--name", "rowdiff", "busybox", "sh", "-c", "echo a > /new; rm /bin/vi; echo b >> /etc/passwd")
    assert [(one["Kind"], one["Path"]) for one in api.diff("rowdiff")] == [
        (0, "/bin"),
        (2, "/bin/vi"),
        (0, "/etc"),
        (0, "/etc/passwd"),
        (1, "/new"),
    ]
    daemon.must("rm", "rowdiff")


def test_export(api: Any, said: str) -> None:
    with tarfile.open(fileobj=io.BytesIO(b"".join(api.export(said)))) as archive:
        names = archive.getnames()
    assert "bin/busybox" in names
    assert not [name for name in names if name.startswith("proc/")]


def test_stats(api: Any, box: str) -> None:
    stream = api.stats(box, decode=True, stream=True)
    first, second = next(stream), next(stream)
    assert second["cpu_stats"]["cpu_usage"]["total_usage"] >= first["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert second["precpu_stats"] == first["cpu_stats"]
    assert 0 < second["memory_stats"]["usage"] < second["memory_stats"]["limit"]
    assert second["pids_stats"]["current"] == 1
    assert second["networks"]["eth0"]["rx_packets"] >= 0
    assert second["machine"]["memory_usage"] > second["memory_stats"]["usage"]
    once = api.stats(box, stream=False)
    assert once["precpu_stats"]["system_cpu_usage"] < once["cpu_stats"]["system_cpu_usage"]


def test_resize(daemon: Daemon, api: Any, box: str) -> None:
    api.resize(box, height=33, width=77)
    exec_id = api.exec_create(box, ["sh", "-c", "stty size < /proc/1/fd/0"])["Id"]
    assert api.exec_start(exec_id) == b"33 77\n"
    for bad in ("h=65536&w=1", "h=x&w=1", "h=1", "h=-1&w=1"):
        assert daemon.request("POST", f"/containers/{box}/resize?{bad}")[0] == 400


def test_start_stop_restart_kill_and_wait(daemon: Daemon, api: Any) -> None:
    api.create_container("busybox", ["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"], name="rowlife")
    api.start("rowlife")
    first = api.inspect_container("rowlife")["State"]["StartedAt"]
    time.sleep(0.5)
    api.stop("rowlife", timeout=20)
    assert api.wait("rowlife")["StatusCode"] == 5
    api.start("rowlife")
    time.sleep(0.5)
    api.restart("rowlife", timeout=20)
    state = api.inspect_container("rowlife")["State"]
    assert state["Running"]
    assert state["StartedAt"] > first
    api.kill("rowlife", signal="KILL")
    assert api.wait("rowlife")["StatusCode"] == 137
    api.remove_container("rowlife")


def test_update(daemon: Daemon, api: Any) -> None:
    daemon.must("run", "-d", "--name", "rowupdate", "-m", "48m", "busybox", "sleep", "1000")
    api.update_container(
        "rowupdate", mem_limit="64m", memswap_limit="64m", cpu_shares=512, restart_policy={"Name": "always"}
    )
    inside = "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.weight"
    assert daemon.must("exec", "rowupdate", "sh", "-c", inside).split() == [str(64 << 20), "20"]
    shown = api.inspect_container("rowupdate")["HostConfig"]
    assert (shown["Memory"], shown["CpuShares"], shown["RestartPolicy"]["Name"]) == (64 << 20, 512, "always")
    with pytest.raises(docker.errors.APIError, match="too few for that limit"):
        api.update_container("rowupdate", mem_limit="8g", memswap_limit="8g")
    status, answer = daemon.request("POST", "/containers/rowupdate/update", {"Binds": ["/a:/b"], "foo": 1})
    assert (status, len(json.loads(answer)["Warnings"])) == (200, 2)
    daemon.must("rm", "-f", "rowupdate")


def test_rename(api: Any) -> None:
    api.create_container("busybox", ["true"], name="rowbefore")
    api.rename("rowbefore", "rowafter")
    assert api.inspect_container("rowafter")["Name"] == "/rowafter"
    api.remove_container("rowafter")


def test_pause_and_unpause(api: Any, box: str) -> None:
    api.pause(box)
    assert api.inspect_container(box)["State"]["Paused"]
    api.unpause(box)
    assert not api.inspect_container(box)["State"]["Paused"]


def _read_until(connection: Any, text: bytes) -> bytes:
    seen = b""
    while text not in seen:
        data = connection.recv(4096)
        if not data:
            break
        seen += data
    return seen


@contextlib.contextmanager
def _attach(daemon: Daemon, name: str, query: str) -> Iterator[socket.socket]:
    """A hijacked connection, after its response head."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(daemon.socket))
        head = f"POST /v1.41/containers/{name}/attach?{query} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        connection.sendall(head.encode())
        seen = b""
        while not seen.endswith(b"\r\n\r\n"):
            seen += connection.recv(1)
        assert seen.startswith(b"HTTP/1.1 101"), seen
        yield connection


def test_attach_stream_stdin_stdout_and_stderr(daemon: Daemon, api: Any, cat: str) -> None:
    with (
        _attach(daemon, cat, "stream=1&stdout=1&stderr=1") as both,
        _attach(daemon, cat, "stream=1&stderr=1") as only,
        _attach(daemon, cat, "stream=1&stdin=1") as writing,
    ):
        api.start(cat)
        assert b"second" in _read_until(both, b"second\n")
        writing.sendall(b"through\n")
        assert b"\x01\x00\x00\x00\x00\x00\x00\x08through\n" in _read_until(both, b"through\n")
        assert _read_until(only, b"second\n") == b"\x02\x00\x00\x00\x00\x00\x00\x07second\n"


def test_attach_logs(api: Any, said: str) -> None:
    assert api.attach(said, logs=True, stdout=True, stderr=True) == b"out1\nerr1\nout2\n"


def test_attach_detach_keys(daemon: Daemon, api: Any, box: str) -> None:
    with _attach(daemon, box, "stream=1&stdin=1&stdout=1&detachKeys=x,y") as connection:
        connection.sendall(b"echo sti''ll here\n")
        assert b"still here" in _read_until(connection, b"still here")
        connection.sendall(b"xy")
        _read_until(connection, b"never")
    assert api.inspect_container(box)["State"]["Running"]


def test_attach_websocket(daemon: Daemon, api: Any, cat: str) -> None:
    with WebSocket(daemon, f"/v1.41/containers/{cat}/attach/ws?stream=1&stdin=1&stdout=1&stderr=1") as web:
        api.start(cat)
        web.until(b"second\n")
        web.send(b"by web\n")
        web.send("text \N{SNOWMAN}\n")
        seen = web.until("text \N{SNOWMAN}\n".encode())
        assert b"by web\n" in seen
        assert web.kinds == {2}
        web.ping(b"are you there")
        assert web.pongs == [b"are you there"]
        api.kill(cat)
        assert web.wait_closed() == 1000
    with WebSocket(daemon, f"/v1.27/containers/{cat}/attach/ws?logs=1&stdout=1") as web:
        assert web.until(b"first\n") == b"first\nby web\n" + "text \N{SNOWMAN}\n".encode()
        assert web.kinds == {1}


def test_attach_websocket_logs_and_detach_keys(daemon: Daemon, api: Any, box: str) -> None:
    path = f"/containers/{box}/attach/ws?stream=1&stdin=1&stdout=1&detachKeys=x,y"
    with WebSocket(daemon, path) as web:
        web.send(b"echo we''b\n")
        web.until(b"web\r\n")
        web.send(b"xy")
        web.wait_closed()
    assert api.inspect_container(box)["State"]["Running"]


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\x81\x05hello", b"\x83\x80\0\0\0\0", b"\x81\xfe\xff\xff\0\0\0\0" + b"\xff" * 100_000],
)
def test_attach_websocket_garbage(daemon: Daemon, box: str, garbage: bytes) -> None:
    """Reserved bits, an unmasked frame, an unknown kind, no UTF-8: the connection ends, and vchd goes on."""
    with WebSocket(daemon, f"/containers/{box}/attach/ws?stream=1&stdin=1&stdout=1") as web:
        web.raw(garbage)
        assert web.wait_closed() in (1002, 1007, 1003)
    assert daemon.must("exec", box, "echo", "well") == "well\n"


def test_attach_websocket_without_a_handshake(daemon: Daemon, box: str) -> None:
    assert daemon.request("GET", f"/containers/{box}/attach/ws?stream=1")[0] == 400


def test_wait_conditions(daemon: Daemon, api: Any) -> None:
    api.create_container("busybox", ["sh", "-c", "exit 4"], name="rowwait")
    codes = []
    waiter = threading.Thread(target=lambda: codes.append(api.wait("rowwait", condition="next-exit")["StatusCode"]))
    waiter.start()
    time.sleep(0.3)
    daemon.must("start", "rowwait")
    waiter.join(30)
    assert codes == [4]
    api.remove_container("rowwait")


def _tar(**contents: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid, member.mtime = len(data), 0o640, 42, 1_000_000_000
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def test_put_and_get_archive(api: Any, box: str) -> None:
    assert api.put_archive(box, "/tmp", _tar(one=b"1" * 1000, two=b"2"))
    chunks, stat = api.get_archive(box, "/tmp/one")
    assert (stat["name"], stat["size"], stat["mode"]) == ("one", 1000, 0o640)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        (member,) = archive.getmembers()
        assert (member.name, member.mode, member.uid, member.mtime) == ("one", 0o640, 42, 1_000_000_000)
        content = archive.extractfile(member)
        assert content is not None
        assert content.read() == b"1" * 1000


def test_head_archive(api: Any, box: str) -> None:
    response = api.head(f"{api.base_url}/v1.41/containers/{box}/archive", params={"path": "/bin/sh"})
    stat = json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"]))
    assert (stat["name"], stat["linkTarget"], stat["mode"] >> 27) == ("sh", "/bin/busybox", 1)


def test_copy(daemon: Daemon, api: Any, box: str) -> None:
    """The route that clients used before API 1.20."""
    response = api.post(f"{api.base_url}/v1.23/containers/{box}/copy", json={"Resource": "/etc/passwd"})
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        assert archive.getnames() == ["passwd"]
    assert daemon.request("POST", f"/v1.24/containers/{box}/copy", {"Resource": "/etc/passwd"})[0] == 404


def test_exec_create_start_resize_and_inspect(api: Any, box: str) -> None:
    exec_id = api.exec_create(box, ["sh", "-c", "sleep 0.5; stty size; exit 6"], tty=True, stdin=True)["Id"]
    stream = api.exec_start(exec_id, tty=True, stream=True)
    api.exec_resize(exec_id, height=21, width=43)
    assert b"".join(stream) == b"21 43\r\n"
    assert api.exec_inspect(exec_id)["ExitCode"] == 6


def test_commit(daemon: Daemon, api: Any, said: str) -> None:
    made = api.commit(said, repository="rowimage", tag="one", message="why", author="who", changes="ENV ROW=yes")
    shown = api.inspect_image("rowimage:one")
    assert (shown["Id"], shown["Comment"], shown["Author"]) == (made["Id"], "why", "who")
    assert daemon.must("run", "--rm", "rowimage:one", "sh", "-c", "echo $ROW") == "yes\n"
    api.remove_image("rowimage:one")


def test_prune(daemon: Daemon, api: Any) -> None:
    for name, label in (("rowold", "old"), ("rowkept", "kept")):
        api.create_container("busybox", ["true"], name=name, labels={"row": label})
    done = api.prune_containers(filters={"label": ["row=old"]})
    assert len(done["ContainersDeleted"]) == 1
    assert done["SpaceReclaimed"] > 0
    assert api.prune_containers(filters={"label": ["row=kept"], "until": ["24h"]})["ContainersDeleted"] is None
    assert api.prune_containers(filters={"label": ["row=kept"], "until": [str(int(time.time()) + 5)]})[
        "ContainersDeleted"
    ]
    assert not api.containers(all=True, filters={"label": "row"})
