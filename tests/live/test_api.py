"""The API on the wire: raw bytes and bad input against a real vchd."""

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import Daemon
from tests.live.images import busybox_layer, image_archive

pytestmark = pytest.mark.live


def raw(daemon: Daemon, data: bytes, *, half_close: bool = True) -> bytes:
    """Send bytes; return all bytes until the server closes the connection, or is silent for a while."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(daemon.socket))
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        out = b""
        while piece := connection.recv(65536):
            out += piece
        return out


def call(daemon: Daemon, method: str, path: str, body: object = None) -> tuple[int, dict[str, str], Any]:
    """One request; (status, headers, decoded JSON or bytes)."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nConnection: close\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    answer = raw(daemon, head.encode() + data, half_close=False)
    lines, _, rest = answer.partition(b"\r\n\r\n")
    first, *fields = lines.decode().split("\r\n")
    headers = {key.lower(): value for key, _, value in (field.partition(": ") for field in fields)}
    try:
        return int(first.split()[1]), headers, json.loads(rest)
    except ValueError:
        return int(first.split()[1]), headers, rest


def test_ping_with_and_without_version(daemon: Daemon) -> None:
    for path in ("/_ping", "/v1.22/_ping", "/v1.51/_ping"):
        status, headers, body = call(daemon, "GET", path)
        assert (status, body, headers["api-version"], headers["ostype"]) == (200, b"OK", "1.51", "linux")
    status, headers, body = call(daemon, "HEAD", "/_ping")
    assert (status, body, headers["content-length"]) == (200, b"", "2")


def test_versions_outside(daemon: Daemon) -> None:
    status, _, body = call(daemon, "GET", "/v1.21/version")
    assert status == 400
    assert body["message"].startswith("client version 1.21 is too old. Minimum supported API version is 1.22")
    status, _, body = call(daemon, "GET", "/v1.52/version")
    assert (status, body["message"]) == (400, "client version 1.52 is too new. Maximum supported API version is 1.51")


def test_unknown_paths(daemon: Daemon) -> None:
    for method, path in (("GET", "/nothing"), ("PATCH", "/version"), ("GET", "/v1.40/containers")):
        assert call(daemon, method, path)[::2] == (404, {"message": "page not found"})


def test_pipelined_requests_are_answered_in_order(daemon: Daemon) -> None:
    one = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n"
    two = b"GET /v1.21/x HTTP/1.1\r\nHost: d\r\n\r\n"
    answer = raw(daemon, one + two + one)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b"200 OK") < answer.index(b"400 Bad Request") < answer.rindex(b"200 OK")


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: d\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        os.urandom(5000) + b"\r\n\r\n",
    ],
)
def test_malformed_http_is_400_and_ends_the_connection(daemon: Daemon, data: bytes) -> None:
    answer = raw(daemon, data)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert call(daemon, "GET", "/_ping")[0] == 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{", "invalid JSON"),
        (b"[]", "config cannot be empty"),
        (b"[" * 100_000, "invalid JSON"),
        ({}, "config cannot be empty"),
        ({"Image": "busybox", "Cmd": [5]}, "Cmd is not a string or a list of strings"),
        ({"Image": "busybox", "Env": ["=x"]}, "invalid environment variable"),
        ({"Image": "busybox", "HostConfig": {"Binds": ["/a:b"]}}, "invalid volume specification: '/a:b'"),
        ({"Image": "busybox", "HostConfig": {"PortBindings": {"x": []}}}, "invalid port specification: 'x'"),
        ({"Image": "busybox", "HostConfig": {"CapAdd": ["FLY"]}}, "invalid capability"),
        ({"Image": "busybox", "HostConfig": {"Memory": 1000}}, "Minimum memory limit allowed is 6MB"),
        ({"Image": "busybox", "HostConfig": {"LogConfig": {"Type": "splunk"}}}, "no log driver named 'splunk'"),
        ({"Image": "busybox", "HostConfig": {"RestartPolicy": {"Name": "maybe"}}}, "unknown policy"),
        ({"Image": "busybox", "WorkingDir": "relative"}, "needs to be an absolute path"),
        ({"Image": "UPPER"}, "must be lowercase"),
    ],
)
def test_bad_create_requests(daemon: Daemon, body: object, text: str) -> None:
    status, _, answer = call(daemon, "POST", "/containers/create", body)
    assert status == 400
    assert text in answer["message"]


def test_names(daemon: Daemon) -> None:
    status, _, answer = call(daemon, "POST", "/containers/create?name=-bad", {"Image": "busybox"})
    assert status == 400
    assert "only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed" in answer["message"]
    status, _, made = call(daemon, "POST", "/containers/create?name=taken", {"Image": "busybox"})
    assert status == 201
    status, _, answer = call(daemon, "POST", "/containers/create?name=taken", {"Image": "busybox"})
    assert status == 409
    assert answer["message"].startswith(
        f'Conflict. The container name "/taken" is already in use by container "{made["Id"]}"'
    )
    assert call(daemon, "POST", "/containers/taken/rename?name=renamed")[0] == 204
    assert call(daemon, "GET", "/containers/taken/json")[::2] == (404, {"message": "No such container: taken"})
    assert call(daemon, "GET", f"/containers/{made['Id'][:10]}/json")[2]["Name"] == "/renamed"
    assert call(daemon, "POST", "/containers/renamed/stop")[0] == 304
    assert call(daemon, "POST", "/containers/renamed/kill")[0] == 409
    assert call(daemon, "POST", "/containers/renamed/resize?h=1&w=1")[0] == 409
    assert call(daemon, "GET", "/containers/renamed/logs")[0] == 400
    assert call(daemon, "DELETE", "/containers/renamed")[0] == 204


def test_list_filters(daemon: Daemon) -> None:
    for name, labels in (("fa", {"a": "1"}), ("fb", {"a": "2", "b": ""})):
        assert call(daemon, "POST", f"/containers/create?name={name}", {"Image": "busybox", "Labels": labels})[0] == 201

    def listed(query: str) -> list[str]:
        status, _, body = call(daemon, "GET", f"/containers/json?{query}")
        assert status == 200, body
        return sorted(item["Names"][0] for item in body if item["Names"][0] in ("/fa", "/fb"))

    assert listed("") == []
    assert listed("all=1") == ["/fa", "/fb"]
    assert listed('all=1&filters={"label":["a=1"]}') == ["/fa"]
    assert listed('all=1&filters={"label":["a","b"]}') == ["/fb"]
    assert listed('all=1&filters={"name":{"^/fa$":true}}') == ["/fa"]
    assert listed('filters={"status":["created"],"name":["f"]}') == ["/fa", "/fb"]
    assert listed('all=1&filters={"before":["fb"]}') == ["/fa"]
    assert call(daemon, "GET", '/containers/json?filters={"nope":["x"]}')[0] == 400
    assert call(daemon, "GET", "/containers/json?filters=nonsense")[0] == 400
    daemon.must("rm", "fa", "fb")


def test_a_missing_image(daemon: Daemon) -> None:
    status, _, answer = call(daemon, "POST", "/containers/create", {"Image": "not-here"})
    assert (status, answer) == (404, {"message": "No such image: not-here:latest"})
    assert call(daemon, "GET", "/images/not-here/json")[::2] == (404, {"message": "No such image: not-here:latest"})
    assert call(daemon, "DELETE", "/images/not-here")[0] == 404


def _load(daemon: Daemon, archive: bytes) -> str:
    result = daemon.docker("load", stdin=archive)
    return result.stdout + result.stderr


def test_broken_archives_leave_nothing(daemon: Daemon) -> None:
    before = sorted((daemon.root / "data/layers").iterdir())
    images = daemon.must("images", "-q")
    layer = busybox_layer()
    evil = io.BytesIO()
    with tarfile.open(fileobj=evil, mode="w") as tar:
        entry = tarfile.TarInfo("../../../tmp/vch-escaped")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    good = image_archive([layer + b"\0" * 512], {}, "broken:latest")
    assert "outside of the layer" in _load(daemon, image_archive([evil.getvalue()], {}, "evil:latest"))
    assert not Path("/tmp/vch-escaped").exists()
    assert "invalid archive" in _load(daemon, b"no tar at all" * 1000)
    assert "invalid archive" in _load(daemon, good[: len(good) // 2])
    lying = good.replace(layer[:512][:100], layer[:512][:100].upper(), 1)
    assert "Loaded" not in _load(daemon, lying)
    assert sorted((daemon.root / "data/layers").iterdir()) == before
    assert daemon.must("images", "-q") == images


def test_tag_inspect_rmi(daemon: Daemon) -> None:
    daemon.must("tag", "busybox", "example.test/team/box:v2")
    assert "example.test/team/box" in daemon.must("images", "--filter", "reference=example.test/team/*")
    assert daemon.must("inspect", "busybox", "--format", "{{.Id}}") == daemon.must(
        "inspect", "example.test/team/box:v2", "--format", "{{.Id}}"
    )
    assert daemon.must("rmi", "example.test/team/box:v2").strip() == "Untagged: example.test/team/box:v2"
    daemon.must("create", "--name", "uses", "busybox")
    refused = daemon.docker("rmi", "busybox")
    assert refused.returncode == 1
    assert "is using its referenced image" in refused.stderr
    daemon.must("rm", "uses")


def test_image_ids_are_the_digest_of_the_config(daemon: Daemon) -> None:
    archive = image_archive([busybox_layer()], {"Cmd": ["sh"], "Env": ["PATH=/bin"]}, "busybox:latest")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        name = next(member.name for member in tar if member.name.endswith(".json") and member.name != "manifest.json")
        content = tar.extractfile(name)
        assert content is not None
        expected = hashlib.sha256(content.read()).hexdigest()
    assert daemon.must("inspect", "busybox", "--format", "{{.Id}}").strip() == f"sha256:{expected}"


def test_a_second_request_waits_while_a_client_hangs(daemon: Daemon) -> None:
    """A client that stops in the middle of a request does not delay others."""
    hanging = []
    for data in (
        b"GET /ev",
        b"POST /containers/create HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{",
        b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n",
    ):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(daemon.socket))
        connection.sendall(data)
        hanging.append(connection)
    started = time.monotonic()
    assert call(daemon, "GET", "/_ping")[0] == 200
    assert time.monotonic() - started < 5
    for connection in hanging:
        connection.close()


def test_vch_commands(daemon: Daemon) -> None:
    vch = str(Path(sys.executable).with_name("vch"))
    version = subprocess.run([vch, "version", "-H", daemon.host], capture_output=True, text=True, check=True).stdout
    assert "API 1.22 to 1.51" in version
    dump = subprocess.run([vch, "dump", "-H", daemon.host], capture_output=True, text=True, check=True).stdout
    assert "_accept" in dump
