"""Nonsense from a client gets an error text: never a traceback, and vchd goes on."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from appliance.api.fields import CONFIG, HOST
from tests.live.daemon import Daemon
from tests.live.test_api import call

pytestmark = pytest.mark.live

_VALUES: list[Any] = [
    0, -1, 1.5, 10**30, "x", "\0", "a" * 5000, [1], [[]], [{}], [None], {"a": 1}, {"": {}}, True, {"80/tcp": [{"HostPort": 5}]},
    {"80/tcp": "x"}, {"Name": 5, "MaximumRetryCount": "x"}, {"Test": ["CMD", 5]}, {"Config": 3}, {"Type": 3},
]  # fmt: skip
_BODIES = [b"", b"[]", b"3", b"null", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"{}{}", b"NaN"]
_QUERIES = [
    "",
    "x",
    "-1",
    "1e9",
    "9" * 20,
    "%00",
    "..%2F..",
    "%5B%5D",
    "null",
    "%7B%22label%22%3A1%7D",
    "%7B%22x%22%3A%5B%22y%22%5D%7D",
]
_POSTS = {
    "/volumes/create": ["Driver", "DriverOpts", "Labels", "ClusterVolumeSpec", "Name"],
    "/networks/create": [
        "Driver",
        "Options",
        "Labels",
        "IPAM",
        "Internal",
        "EnableIPv6",
        "Scope",
        "Attachable",
        "Ingress",
        "ConfigOnly",
        "ConfigFrom",
    ],
    "/networks/bridge/connect": ["Container", "EndpointConfig"],
    "/networks/bridge/disconnect": ["Container", "Force"],
    "/containers/there/exec": ["Cmd", "Env", "User", "Tty", "WorkingDir", "DetachKeys", "ConsoleSize", "Privileged"],
    "/containers/there/checkpoints": ["CheckpointID", "CheckpointDir", "Exit"],
    "/commit?container=there": sorted(CONFIG),
    "/containers/there/update": sorted(HOST),
}
_GETS = {
    "/containers/json": ["all", "limit", "filters", "since", "before"], "/containers/there/logs?stdout=1": ["since", "until", "tail"],
    "/containers/there/top": ["ps_args"], "/containers/there/archive": ["path"], "/images/json": ["filters", "shared-size"],
    "/images/get": ["names"], "/networks": ["filters"], "/networks/bridge": ["verbose", "scope"], "/volumes": ["filters"],
    "/system/df": ["type"], "/events?since=0&until=1": ["filters", "until"],
}  # fmt: skip


def _creations() -> Iterator[tuple[str, Any]]:
    usual = {"Image": "busybox", "Cmd": ["true"]}
    for name, value in itertools.product(sorted(CONFIG), _VALUES):
        yield "/containers/create", {**usual, name: value}
    for name, value in itertools.product(sorted(HOST), _VALUES):
        yield "/containers/create", {**usual, "HostConfig": {name: value}}
    for value in _VALUES:
        for place in (
            value,
            {"bridge": value},
            {"bridge": {"IPAMConfig": value}},
            {"bridge": {"Aliases": value}},
            {"bridge": {"Links": value}},
            {"bridge": {"MacAddress": value}},
            {"bridge": {"DriverOpts": value}},
            {"bridge": {"GwPriority": value}},
        ):
            yield "/containers/create", {**usual, "NetworkingConfig": {"EndpointsConfig": place}}


def _posts() -> Iterator[tuple[str, Any]]:
    number = itertools.count()
    for path, names in _POSTS.items():
        for name, value in itertools.product(names, _VALUES):
            yield path, {"Name": f"n{next(number)}", name: value}
    for path in (*_POSTS, "/containers/create", "/swarm/init", "/swarm/join", "/swarm/update", "/exec/nothing/start"):
        for body in _BODIES:
            yield path, body


def _hold(asked: object, status: int, said: object) -> None:
    # The answer to an unexpected error.
    assert status != 500 or "internal error" not in str(said), asked


def test_creations(daemon: Daemon) -> None:
    for path, body in _creations():
        status, _, said = call(daemon, "POST", f"/v1.51{path}", body)
        _hold(body, status, said)
        if status == 201:
            assert call(daemon, "DELETE", f"/v1.51/containers/{said['Id']}")[0] == 204
    assert "Traceback" not in daemon.log.read_text()


def test_other_requests(daemon: Daemon) -> None:
    daemon.must("run", "-d", "--name", "there", "busybox", "sleep", "1000")
    try:
        for path, body in _posts():
            status, _, said = call(daemon, "POST", f"/v1.51{path}", body)
            _hold((path, body), status, said)
        for path, names in _GETS.items():
            for name, value in itertools.product(names, _QUERIES):
                asked = f"/v1.51{path}{'&' if '?' in path else '?'}{name}={value}"
                status, _, said = call(daemon, "GET", asked)
                _hold(asked, status, said)
        assert json.loads(daemon.must("inspect", "there"))[0]["State"]["Running"]
        assert "Traceback" not in daemon.log.read_text()
    finally:
        daemon.must("rm", "-f", "there")
        daemon.docker("network", "prune", "-f")


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a" * 200 + ":5000", "a..b"])
def test_registries_whose_names_are_no_hosts(daemon: Daemon, host: str) -> None:
    pulled = call(daemon, "POST", f"/v1.51/images/create?fromImage={host}/some/image&tag=1")
    assert pulled[0] in (400, 404, 500)
    logged_in = call(daemon, "POST", "/v1.51/auth", {"username": "a", "password": "b", "serveraddress": host})
    fetched = call(daemon, "POST", f"/v1.51/images/create?fromSrc=http://{host}/x.tar")
    searched = call(daemon, "GET", f"/v1.51/images/search?term={host}/x")
    for status, _, said in (pulled, logged_in, fetched, searched):
        assert status >= 400
        assert "internal error" not in str(said)
    assert call(daemon, "GET", "/_ping")[0] == 200


def test_a_syslog_server_whose_name_is_no_host(daemon: Daemon) -> None:
    address = f"syslog-address=udp://{'a' * 100}.example:514"
    assert daemon.must("run", "--rm", "--log-driver", "syslog", "--log-opt", address, "busybox", "echo", "on") == "on\n"
    assert call(daemon, "GET", "/_ping")[0] == 200
