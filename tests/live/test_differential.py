"""The same raw requests to vchd and to a real dockerd (API 1.41): status, headers and the shape of the answers agree.

Where they do not, `DIFFERENT` says why.
"""

import base64
import http.client
import io
import json
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.live.daemon import Daemon
from tests.live.images import busybox_archive
from tests.live.oracle import dockerd

pytestmark = pytest.mark.live


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. `body` is sent as JSON unless it is bytes; `what` names the case."""

    method: str
    path: str
    body: object = None
    headers: dict[str, str] = field(default_factory=dict)
    what: str = ""

    @property
    def name(self) -> str:
        shown = self.what or ("" if self.body is None or isinstance(self.body, bytes) else str(self.body))
        return f"{self.method} {self.path} {shown}".rstrip()


def _tar(*names: str, **fields: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            for key, value in fields.items():
                setattr(member, key, value)
            archive.addfile(member)
    return out.getvalue()


def get(path: str, **more: Any) -> Ask:
    return Ask("GET", path, **more)


def post(path: str, body: object = None, **more: Any) -> Ask:
    return Ask("POST", path, body, **more)


SLEEP = {"Image": "busybox", "Cmd": ["sleep", "1000"]}
TAR = {"Content-Type": "application/x-tar"}


def create(name: str, host: dict[str, object] | None = None, **config: object) -> Ask:
    body = {**SLEEP, **config, "HostConfig": {"NetworkMode": "none", **(host or {})}}
    return post(f"/containers/create?name={name}", body, what="of it")


def put(path: str, body: bytes, what: str) -> Ask:
    return Ask("PUT", path, body, TAR, what)


# `made` was never started, `runs` and `term` (with a terminal) run, `ended` exited with 3, `paused` is paused.
ASKS = [
    # ping, version, info
    get("/_ping"),
    Ask("HEAD", "/_ping"),
    get("/version"),
    post("/_ping"),
    get("/nothing"),
    get("/containers"),
    # list
    get("/containers/json"),
    get("/containers/json?all=1"),
    get("/containers/json?all=true&size=1"),
    get("/containers/json?limit=1"),
    get("/containers/json?limit=0"),
    get("/containers/json?limit=-1"),
    get("/containers/json?limit=x"),
    get("/containers/json?all=1&filters=nojson"),
    get("/containers/json?filters=[]"),
    get('/containers/json?all=1&filters={"status":["paused"]}'),
    get('/containers/json?filters={"status":["nonsense"]}'),
    get('/containers/json?filters={"nonsense":["x"]}'),
    get('/containers/json?all=1&filters={"name":["ma"]}'),
    get('/containers/json?all=1&filters={"exited":["3"]}'),
    get('/containers/json?filters={"exited":["x"]}'),
    get('/containers/json?all=1&filters={"label":["none"]}'),
    get('/containers/json?all=1&filters={"ancestor":["busybox"]}'),
    get('/containers/json?all=1&filters={"ancestor":["nobody"]}'),
    get('/containers/json?all=1&filters={"health":["none"]}'),
    get('/containers/json?filters={"health":["bad"]}'),
    get('/containers/json?filters={"is-task":["false"]}'),
    get('/containers/json?filters={"is-task":["maybe"]}'),
    get('/containers/json?filters={"before":["runs"]}'),
    get('/containers/json?filters={"before":["nobody"]}'),
    get('/containers/json?all=1&filters={"since":["made"]}'),
    get('/containers/json?all=1&filters={"network":["none"]}'),
    get('/containers/json?all=1&filters={"volume":["none"]}'),
    get('/containers/json?all=1&filters={"publish":["80"]}'),
    get('/containers/json?filters={"publish":["x"]}'),
    # inspect
    get("/containers/made/json"),
    get("/containers/runs/json"),
    get("/containers/ended/json"),
    get("/containers/paused/json"),
    get("/containers/term/json?size=1"),
    get("/containers/nobody/json"),
    get("/containers/a%2Fb/json"),
    # create
    post("/containers/create"),
    post("/containers/create", {}),
    post("/containers/create", []),
    post("/containers/create", {"Cmd": ["a"]}),
    Ask("POST", "/containers/create", b"{", {"Content-Type": "application/json"}, "half an object"),
    Ask("POST", "/containers/create", b"{}", {"Content-Type": "text/plain"}, "as text"),
    post("/containers/create", {"Image": "nobody:1"}),
    post("/containers/create", {"Image": "UPPER"}),
    post("/containers/create?name=/bad/name", SLEEP),
    post("/containers/create?name=x", SLEEP),
    post("/containers/create?name=made", SLEEP),
    create("c1"),
    create("c2", Cmd="sleep 5"),
    create("c3", Cmd=["a", 1]),
    create("c4", Tty="yes"),
    create("c5", Env=["A=b", "C"]),
    create("c6", Env=["=b"]),
    create("c7", User="nobody"),
    create("c8", WorkingDir="relative"),
    create("c9", Hostname="x" * 64),
    create("c10", StopSignal="NONSENSE"),
    create("c11", Labels={"a": "b"}),
    create("c12", Labels={"a": 1}),
    create("c13", ExposedPorts={"80/tcp": {}}),
    create("c14", ExposedPorts={"x": {}}),
    create("c15", {"Memory": 1000}),
    create("c16", {"Memory": -1}),
    create("c17", {"Memory": 1 << 26, "MemorySwap": 1 << 25}),
    create("c18", {"MemorySwap": 1 << 26}),
    create("c19", {"Memory": 1 << 26}),
    create("c20", {"NanoCpus": 500_000_000}),
    create("c21", {"NanoCpus": -1}),
    create("c22", {"NanoCpus": 1_000_000_000_000}),
    create("c23", {"CpuShares": -1}),
    create("c24", {"CpuPeriod": 1}),
    create("c25", {"CpuQuota": 1}),
    create("c26", {"CpusetCpus": "x"}),
    create("c27", {"CpusetCpus": "0-99"}),
    create("c28", {"PidsLimit": 10}),
    create("c29", {"PidsLimit": -1}),
    create("c30", {"CapAdd": ["NONSENSE"]}),
    create("c31", {"CapAdd": ["SYS_ADMIN"], "CapDrop": ["ALL"]}),
    create("c32", {"RestartPolicy": {"Name": "nonsense"}}),
    create("c33", {"RestartPolicy": {"Name": "always", "MaximumRetryCount": 3}}),
    create("c34", {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": -3}}),
    create("c35", {"RestartPolicy": {"Name": "always"}, "AutoRemove": True}),
    create("c36", {"OomScoreAdj": 2000}),
    create("c37", {"ShmSize": -1}),
    create("c38", {"ShmSize": 1 << 20}),
    create("c39", {"Ulimits": [{"Name": "nofile", "Soft": 2, "Hard": 1}]}),
    create("c40", {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]}),
    create("c41", {"LogConfig": {"Type": "nonsense"}}),
    create("c42", {"LogConfig": {"Type": "json-file", "Config": {"nonsense": "1"}}}),
    create("c43", {"LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "3"}}}),
    create("c44", {"LogConfig": {"Type": "json-file", "Config": {"max-size": "x"}}}),
    create("c45", {"LogConfig": {"Type": "json-file", "Config": {"max-file": "3"}}}),
    create("c46", {"LogConfig": {"Type": "none"}}),
    create("c47", {"LogConfig": {"Type": "local"}}),
    create("c48", {"Tmpfs": {"/t": "size=1m"}}),
    create("c49", {"ReadonlyRootfs": True}),
    create("c50", {"Privileged": True}),
    create("c51", {"SecurityOpt": ["nonsense"]}),
    create("c52", {"SecurityOpt": ["no-new-privileges"]}),
    create("c53", {"IpcMode": "nonsense"}),
    create("c54", {"PidMode": "nonsense"}),
    create("c55", {"UTSMode": "nonsense"}),
    create("c56", {"NetworkMode": "nonsense"}),
    create("c57", {"ExtraHosts": ["bad"]}),
    create("c58", {"ExtraHosts": ["a:1.2.3.4"]}),
    create("c59", {"Dns": ["bad"]}),
    create("c60", {"Dns": ["1.2.3.4"], "DnsSearch": ["x"], "DnsOptions": ["ndots:1"]}),
    create("c61", {"Sysctls": {"net.ipv4.ip_forward": "1"}}),
    create("c62", {"Sysctls": {"kernel.nonsense": "1"}}),
    create("c63", {"Isolation": "nonsense"}),
    create("c64", {"Runtime": "nonsense"}),
    create("c65", {"ConsoleSize": [1, 2]}),
    create("c66", {"Init": True}),
    create("c67", {"GroupAdd": ["12"]}),
    create("c68", {"MemorySwappiness": 101}),
    create("c69", {"MemoryReservation": 1 << 27, "Memory": 1 << 26}),
    create("c70", {"NanoCpus": 1, "CpuQuota": 1000}),
    create("c71", Healthcheck={"Test": ["CMD", "true"], "Interval": 1}),
    create("c72", Healthcheck={"Test": ["CMD", "true"], "Retries": -1}),
    create("c73", Healthcheck={"Test": ["CMD-SHELL", "true"]}),
    create("c74", Healthcheck={"Test": ["NONSENSE"]}),
    create("c75", {"BlkioWeight": 5}),
    create("c76", {"MaskedPaths": []}),
    create("c77", {"OomKillDisable": False}),
    get("/containers/c43/json"),
    get("/containers/c73/json"),
    get("/containers/c60/json"),
    get("/containers/c40/json"),
    # start, stop, kill, restart, pause: what does not change the five
    post("/containers/nobody/start"),
    post("/containers/runs/start"),
    post("/containers/paused/start"),
    post("/containers/runs/start?detachKeys=nonsense"),
    post("/containers/nobody/stop"),
    post("/containers/ended/stop"),
    post("/containers/made/stop"),
    post("/containers/ended/stop?t=x"),
    post("/containers/nobody/kill"),
    post("/containers/made/kill"),
    post("/containers/runs/kill?signal=NONSENSE"),
    post("/containers/runs/kill?signal=0"),
    post("/containers/runs/kill?signal=CONT"),
    post("/containers/nobody/restart"),
    post("/containers/nobody/pause"),
    post("/containers/made/pause"),
    post("/containers/paused/pause"),
    post("/containers/runs/unpause"),
    post("/containers/nobody/unpause"),
    post("/containers/nobody/wait"),
    post("/containers/ended/wait"),
    post("/containers/made/wait"),
    post("/containers/ended/wait?condition=nonsense"),
    post("/containers/nobody/resize?h=1&w=1"),
    post("/containers/made/resize?h=1&w=1"),
    post("/containers/term/resize?h=30&w=90"),
    post("/containers/term/resize"),
    post("/containers/term/resize?h=x&w=1"),
    post("/containers/term/resize?h=0&w=0"),
    post("/containers/term/resize?h=65536&w=1"),
    post("/containers/runs/rename"),
    post("/containers/runs/rename?name=made"),
    post("/containers/runs/rename?name=runs"),
    post("/containers/runs/rename?name=/bad/"),
    post("/containers/nobody/rename?name=xx"),
    # logs, attach
    get("/containers/ended/logs?stdout=1&stderr=1"),
    get("/containers/ended/logs"),
    get("/containers/nobody/logs?stdout=1"),
    get("/containers/ended/logs?stdout=1&tail=x"),
    get("/containers/ended/logs?stdout=1&since=x"),
    get("/containers/c46/logs?stdout=1"),
    get("/containers/term/logs?stdout=1&timestamps=1"),
    get("/containers/made/logs?stdout=1&follow=1"),
    post("/containers/nobody/attach"),
    post("/containers/paused/attach?stream=1&stdout=1"),
    post("/containers/runs/attach?detachKeys=nonsense"),
    get("/containers/nobody/attach/ws"),
    post("/containers/ended/attach?logs=1&stdout=1"),
    # top, stats, changes, export
    get("/containers/runs/top"),
    get("/containers/runs/top?ps_args=aux"),
    get("/containers/runs/top?ps_args=-o%20pid,comm"),
    get("/containers/runs/top?ps_args=-o%20comm"),
    get("/containers/runs/top?ps_args=--nonsense"),
    get("/containers/runs/top?ps_args=-o%20x%3DPID"),
    get("/containers/made/top"),
    get("/containers/nobody/top"),
    get("/containers/runs/stats?stream=0"),
    get("/containers/runs/stats?stream=0&one-shot=1"),
    get("/containers/made/stats?stream=0"),
    get("/containers/nobody/stats"),
    get("/containers/made/changes"),
    get("/containers/runs/changes"),
    get("/containers/nobody/changes"),
    get("/containers/nobody/export"),
    get("/containers/ended/export"),
    # archive
    get("/containers/runs/archive"),
    get("/containers/runs/archive?path=/etc"),
    get("/containers/runs/archive?path=/nope"),
    get("/containers/nobody/archive?path=/"),
    Ask("HEAD", "/containers/runs/archive?path=/etc"),
    Ask("HEAD", "/containers/runs/archive?path=/nope"),
    Ask("HEAD", "/containers/runs/archive"),
    Ask("HEAD", "/containers/made/archive?path=/bin/sh"),
    Ask("HEAD", "/containers/runs/archive?path=bin/./sh"),
    Ask("HEAD", "/containers/runs/archive?path=/bin/busybox/"),
    Ask("HEAD", "/containers/runs/archive?path=/bin/busybox/."),
    Ask("HEAD", "/containers/runs/archive?path=/"),
    Ask("HEAD", "/containers/runs/archive?path=/bin/."),
    get("/containers/ended/archive?path=/bin/busybox/x"),
    put("/containers/runs/archive?path=/tmp", _tar("one", "two/three"), "good"),
    put("/containers/runs/archive", _tar("one"), "no path"),
    put("/containers/runs/archive?path=/nope", _tar("one"), "no such directory"),
    put("/containers/runs/archive?path=/bin/busybox", _tar("one"), "a file"),
    put("/containers/nobody/archive?path=/", _tar("one"), "nobody"),
    put("/containers/runs/archive?path=/tmp", b"no tar at all" * 100, "no tar"),
    put("/containers/runs/archive?path=/tmp", b"", "empty"),
    put("/containers/runs/archive?path=/tmp", _tar("../out"), "climbs"),
    put("/containers/runs/archive?path=/tmp", _tar("/absolute"), "absolute"),
    put(
        "/containers/runs/archive?path=/tmp",
        _tar("link", type=tarfile.LNKTYPE, linkname="../../etc/passwd"),
        "hard link out",
    ),
    put("/containers/runs/archive?path=/tmp", _tar("sym", type=tarfile.SYMTYPE, linkname="/etc"), "symbolic link out"),
    put("/containers/runs/archive?path=/tmp&noOverwriteDirNonDir=1", _tar("two"), "file over directory"),
    put(
        "/containers/runs/archive?path=/tmp&noOverwriteDirNonDir=1",
        _tar("one", type=tarfile.DIRTYPE),
        "directory over file",
    ),
    put("/containers/made/archive?path=/", _tar("one", "two/three"), "good"),
    put("/containers/c49/archive?path=/", _tar("one"), "read-only"),
    Ask("HEAD", "/containers/runs/archive?path=/tmp/sym"),
    get("/containers/runs/archive?path=/tmp/"),
    get("/containers/made/changes"),
    # exec
    post("/containers/nobody/exec", {"Cmd": ["true"]}),
    post("/containers/made/exec", {"Cmd": ["true"]}),
    post("/containers/paused/exec", {"Cmd": ["true"]}),
    post("/containers/runs/exec", {}),
    post("/containers/runs/exec"),
    post("/containers/runs/exec", {"Cmd": ["true"], "DetachKeys": "nonsense"}),
    post("/containers/runs/exec", {"Cmd": ["true"]}),
    post("/exec/nobody/start", {}),
    get("/exec/nobody/json"),
    post("/exec/nobody/resize?h=1&w=1"),
    # update, commit, prune
    post("/containers/nobody/update", {"Memory": 1 << 26}),
    post("/containers/runs/update", {"CpuShares": 512}),
    post("/containers/runs/update", {"RestartPolicy": {"Name": "nonsense"}}),
    post("/containers/runs/update", {"Memory": 1000}),
    post("/containers/made/update", {"RestartPolicy": {"Name": "always"}}),
    post("/containers/runs/update"),
    post("/commit?container=nobody", {}),
    post("/commit?container=ended&repo=new&tag=one", {}),
    post("/commit?container=ended&repo=UPPER", {}),
    post("/commit?container=ended&changes=RUN%20true", {}),
    post("/commit?container=ended&changes=ENV%20A%3Db", {"Labels": {"x": "y"}}),
    get("/images/new:one/json"),
    get("/images/new:one/history"),
    post("/containers/prune?filters={%22nonsense%22:[%22x%22]}"),
    post("/containers/prune?filters=nojson"),
    post("/containers/prune?filters={%22label%22:[%22nobodyhas%22]}"),
    # remove
    Ask("DELETE", "/containers/nobody"),
    Ask("DELETE", "/containers/runs"),
    Ask("DELETE", "/containers/paused"),
    Ask("DELETE", "/containers/c1"),
    Ask("DELETE", "/containers/c5?v=1"),
    Ask("DELETE", "/containers/paused?force=1"),
    Ask("DELETE", "/containers/runs?force=true"),
    post("/containers/prune"),
    # images, events
    get('/images/json?filters={"reference":["busybox"]}'),
    get("/images/busybox/json"),
    get("/images/nobody/json"),
    get("/images/busybox/history"),
    post("/images/busybox/tag?repo=other&tag=1"),
    post("/images/busybox/tag?repo=UPPER"),
    post("/images/nobody/tag?repo=a"),
    Ask("DELETE", "/images/nobody"),
    Ask("DELETE", "/images/other:1"),
    get("/events?since=1&until=2"),
    get("/events?since=x"),
    get("/events?until=1&filters=nojson"),
    # networks
    get('/networks?filters={"name":["^bridge$"]}'),
    get("/networks/none"),
    get("/networks/nobody"),
    get('/networks?filters={"nonsense":["x"]}'),
    get('/networks?filters={"type":["builtin"],"name":["^none$"]}'),
    get('/networks?filters={"type":["nonsense"]}'),
    get('/networks?filters={"name":["^none$"]}'),
    post("/networks/create", {"Name": "net1", "CheckDuplicate": True}),
    post("/networks/create", {"Name": "net1", "CheckDuplicate": True}),
    post("/networks/create", {}),
    post("/networks/create"),
    post("/networks/create", {"Name": "net2", "Driver": "nonsense"}),
    post("/networks/create", {"Name": "net3", "IPAM": {"Config": [{"Subnet": "nonsense"}]}}),
    post("/networks/create", {"Name": "net4", "IPAM": {"Config": [{"Subnet": "10.99.0.0/24"}]}}),
    post("/networks/create", {"Name": "net5", "IPAM": {"Config": [{"Subnet": "10.99.0.0/25"}]}}),
    post(
        "/networks/create", {"Name": "net6", "IPAM": {"Config": [{"Subnet": "10.98.0.0/24", "Gateway": "10.97.0.1"}]}}
    ),
    post("/networks/create", {"Name": "net7", "Internal": True, "Labels": {"a": "b"}}),
    get("/networks/net4"),
    get("/networks/net7"),
    create("joins", {"NetworkMode": "net4"}),
    post("/networks/net7/connect", {"Container": "joins"}),
    post("/networks/net7/connect", {"Container": "nobody"}),
    post("/networks/nobody/connect", {"Container": "joins"}),
    post("/networks/net7/connect"),
    post("/networks/host/connect", {"Container": "joins"}),
    get("/containers/joins/json"),
    post("/networks/net7/disconnect", {"Container": "joins"}),
    post("/networks/net7/disconnect", {"Container": "nobody"}),
    Ask("DELETE", "/networks/none"),
    Ask("DELETE", "/networks/nobody"),
    Ask("DELETE", "/networks/net7"),
    post('/networks/prune?filters={"nonsense":["x"]}'),
    post('/networks/prune?filters={"label":["nobodyhas"]}'),
    Ask("DELETE", "/containers/joins"),
    post("/networks/prune"),
    # volumes
    get("/volumes"),
    get("/volumes/nobody"),
    get('/volumes?filters={"nonsense":["x"]}'),
    post("/volumes/create", {}),
    post("/volumes/create", {"Name": "vol1", "Labels": {"a": "b"}}),
    post("/volumes/create", {"Name": "vol1"}),
    post("/volumes/create", {"Name": "../up"}),
    post("/volumes/create", {"Name": "vol2", "Driver": "nonsense"}),
    post("/volumes/create", {"Name": "vol3", "DriverOpts": {"nonsense": "1"}}),
    get("/volumes/vol1"),
    get('/volumes?filters={"name":["vol1"]}'),
    create("binds1", {"Binds": ["vol1:/v", "/tmp/made/by/bind:/b:ro"]}),
    create("binds2", {"Binds": ["x:/"]}),
    create("binds3", {"Binds": ["a:b:c:d"]}),
    create("binds4", {"Binds": ["/a:/b", "/c:/b"]}),
    create("mounts1", {"Mounts": [{"Type": "volume", "Source": "vol1", "Target": "/v", "ReadOnly": True}]}),
    create("mounts2", {"Mounts": [{"Type": "bind", "Source": "/no/such/path", "Target": "/v"}]}),
    create("mounts3", {"Mounts": [{"Type": "nonsense", "Target": "/v"}]}),
    create("mounts4", {"Mounts": [{"Type": "volume"}]}),
    create("from1", {"VolumesFrom": ["binds1:ro"]}),
    create("from2", {"VolumesFrom": ["nobody"]}),
    create("from3", {"VolumesFrom": ["binds1:nonsense"]}),
    create("anonymous", {}, Volumes={"/data": {}}),
    get("/containers/binds1/json"),
    get("/containers/mounts1/json"),
    get("/containers/from1/json"),
    get("/containers/anonymous/json"),
    Ask("DELETE", "/volumes/vol1"),
    Ask("DELETE", "/volumes/nobody"),
    Ask("DELETE", "/volumes/nobody?force=1"),
    post('/volumes/prune?filters={"nonsense":["x"]}'),
    post('/volumes/prune?filters={"label":["nobodyhas"]}'),
    # ports
    create("ports1", {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}}),
    create("ports2", {"PortBindings": {"nonsense": []}}),
    create("ports3", {"PortBindings": {"80/tcp": [{"HostPort": "99999"}]}}),
    create("ports4", {"PortBindings": {"80/tcp": [{"HostIp": "x"}]}}),
    create("linked1", {"Links": ["nobody:x"]}),
    get("/containers/ports1/json"),
    # more of images
    post("/images/create"),
    post("/images/create?fromImage=UPPER"),
    post("/images/load", b"garbage" * 200, what="garbage"),
    post("/images/create?fromSrc=-&repo=imported", _tar("one", "two"), what="a tar"),
    get("/images/imported/json"),
    post("/images/create?fromSrc=-&repo=UPPER", _tar("one"), what="a tar"),
    get("/images/nobody/get"),
    get("/images/get?names=nobody"),
    get('/images/json?filters={"nonsense":["x"]}'),
    get('/images/json?filters={"dangling":["nonsense"]}'),
    get("/images/json?all=1"),
    get('/images/json?filters={"before":["nobody"]}'),
    get('/images/json?filters={"since":["busybox"]}'),
    post('/images/prune?filters={"nonsense":["x"]}'),
    post('/images/prune?filters={"label":["nobodyhas"]}'),
    get("/images/search?term=x&limit=0"),
    get("/images/search?term=x&limit=101"),
    get('/images/search?term=x&filters={"nonsense":["x"]}'),
    Ask("DELETE", "/images/imported"),
    get("/system/df"),
    get("/images/nobody/history"),
    # swarms
    get("/swarm"),
    post("/swarm/leave"),
    get("/nodes"),
    get("/services"),
    get("/tasks"),
    get("/secrets"),
    get("/configs"),
]

# Why an answer may differ.
_CLIENT = "the client's mistake: 4xx, as in moby from API 1.42 on and in the API's documentation; 1.41 answers 500"
_EARLY = "what cannot be started is refused when it is created"
_IMAGE = "a container without an image could do nothing"
_LOGS = "the media type that moby sends from API 1.42 on"
_ATTACH = "an error is an answer with its status, not text in a stream that was taken over"
_NEWER_CHECK = "an unknown condition is refused, as in moby from API 1.42 on"
_RANGE = "a terminal has at most 65535 rows; dockerd takes it modulo"
_SIZE = "a disk takes some room from the first, where dockerd counts nothing"

_GATEWAY = "a gateway that nobody has chosen is shown too, as in moby from 28.0 on"
_NETWORK = "the network is looked for at once, as in moby from 26.0 on"
_NULLS = "lists are lists, also where 1.41 says null or leaves out a zero"
_UNHEEDED = "what has no effect is warned of"

# Requests whose answers differ on purpose, and why.
DIFFERENT: dict[str, str] = {
    'GET /containers/json?all=true&size=1': _SIZE,
    'GET /containers/json?limit=x': _CLIENT,
    'GET /containers/json?all=1&filters=nojson': _CLIENT,
    'GET /containers/json?filters=[]': _CLIENT,
    'GET /containers/json?filters={"exited":["x"]}': _CLIENT,
    'GET /containers/json?filters={"before":["nobody"]}': _CLIENT,
    'GET /containers/json?filters={"publish":["x"]}': _CLIENT,
    'POST /containers/create': _CLIENT,
    'POST /containers/create []': _CLIENT,
    "POST /containers/create {'Cmd': ['a']}": _IMAGE,
    'POST /containers/create half an object': _CLIENT,
    "POST /containers/create?name=c3 of it": _CLIENT,
    "POST /containers/create?name=c4 of it": _CLIENT,
    "POST /containers/create?name=c9 of it": _EARLY,
    "POST /containers/create?name=c12 of it": _CLIENT,
    "POST /containers/create?name=c14 of it": _EARLY,
    "POST /containers/create?name=c39 of it": _EARLY,
    "POST /containers/create?name=c44 of it": _EARLY,
    "POST /containers/create?name=c51 of it": _CLIENT,
    "POST /containers/create?name=c53 of it": _EARLY,
    "POST /containers/create?name=c54 of it": _EARLY,
    "POST /containers/create?name=c55 of it": _EARLY,
    "POST /containers/create?name=c63 of it": _CLIENT,
    'POST /containers/ended/stop?t=x': _CLIENT,
    'POST /containers/ended/wait?condition=nonsense': _NEWER_CHECK,
    'POST /containers/term/resize?h=65536&w=1': _RANGE,
    'GET /containers/ended/logs?stdout=1&stderr=1': _LOGS,
    'GET /containers/ended/logs?stdout=1&tail=x': _LOGS,
    'GET /containers/ended/logs?stdout=1&since=x': _CLIENT,
    'GET /containers/term/logs?stdout=1&timestamps=1': _LOGS,
    'GET /containers/made/logs?stdout=1&follow=1': _LOGS,
    'POST /containers/nobody/attach': _ATTACH,
    'POST /containers/paused/attach?stream=1&stdout=1': _ATTACH,
    'POST /containers/runs/attach?detachKeys=nonsense': _ATTACH,
    'GET /containers/runs/top?ps_args=--nonsense': _CLIENT,
    'GET /containers/runs/top?ps_args=-o%20x%3DPID': _CLIENT,
    'HEAD /containers/runs/archive?path=/bin/busybox/': _CLIENT,
    'HEAD /containers/runs/archive?path=/bin/busybox/.': _CLIENT,
    'GET /containers/ended/archive?path=/bin/busybox/x': _CLIENT,
    'PUT /containers/runs/archive?path=/bin/busybox a file': _CLIENT,
    'PUT /containers/runs/archive?path=/tmp no tar': _CLIENT,
    'PUT /containers/runs/archive?path=/tmp climbs': _CLIENT,
    'PUT /containers/runs/archive?path=/tmp hard link out': _CLIENT,
    'PUT /containers/runs/archive?path=/tmp&noOverwriteDirNonDir=1 file over directory': _CLIENT,
    'PUT /containers/runs/archive?path=/tmp&noOverwriteDirNonDir=1 directory over file': _CLIENT,
    'PUT /containers/c49/archive?path=/ read-only': _CLIENT,
    "POST /containers/runs/exec {'Cmd': ['true'], 'DetachKeys': 'nonsense'}": _CLIENT,
    'POST /containers/runs/update': _CLIENT,
    'POST /commit?container=ended&repo=UPPER {}': _CLIENT,
    'POST /images/busybox/tag?repo=UPPER': _CLIENT,
    'GET /events?since=x': _CLIENT,
    'GET /events?until=1&filters=nojson': _CLIENT,
    'GET /networks?filters={"type":["nonsense"]}': _CLIENT,
    "POST /networks/create {}": _CLIENT,
    "POST /networks/create {'Name': 'net3', 'IPAM': {'Config': [{'Subnet': 'nonsense'}]}}": _CLIENT,
    "POST /networks/create {'Name': 'net6', 'IPAM': {'Config': [{'Subnet': '10.98.0.0/24', 'Gateway': '10.97.0.1'}]}}": _CLIENT,
    "GET /networks/net4": _GATEWAY,
    "POST /networks/nobody/connect {'Container': 'joins'}": _NETWORK,
    "GET /containers/joins/json": _NETWORK,
    "POST /containers/create?name=binds2 of it": _CLIENT,
    "POST /containers/create?name=binds3 of it": _CLIENT,
    "POST /containers/create?name=ports1 of it": _UNHEEDED,
    "POST /containers/create?name=ports4 of it": _EARLY,
    "POST /images/create": _CLIENT,
    "GET /system/df": _NULLS,
}  # fmt: skip


class _Unix(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("d", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self._path)


def shape(value: Any) -> Any:
    """Names and types, not values."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


# Values that differ in every answer: where they are, and why.
NOT_COMPARED = {
    "GraphDriver.Data": "the storage's own",
    "memory_stats.stats": "cgroup v2 in the guest, what the host has with dockerd",
    "memory_stats.max_usage": "cgroup v1 only",
    "blkio_stats": "cgroup v2 in the guest, what the host has with dockerd",
    "cpu_stats.cpu_usage.percpu_usage": "cgroup v1 only",
    "precpu_stats.cpu_usage.percpu_usage": "cgroup v1 only",
    "machine": "ours: figures of the virtual machine",
    "RepoDigests": "dockerd makes one up for an image that was loaded",
}


def _prune(value: Any) -> Any:
    if isinstance(value, dict):
        for path in NOT_COMPARED:
            *way, last = path.split(".")
            inner: Any = value
            for step in way:
                inner = inner.get(step) if isinstance(inner, dict) else None
            if isinstance(inner, dict):
                inner.pop(last, None)
        # dockerd tells of them in any order.
        if isinstance(value.get("Mounts"), list):
            value["Mounts"].sort(key=lambda mount: mount["Destination"])
        # By their IDs, which are unique.
        if isinstance(value.get("Containers"), dict):
            value["Containers"] = list(value["Containers"].values())
    return value


def _member(member: tarfile.TarInfo) -> tuple[object, ...]:
    # dockerd puts the type's bits into the mode as well; what it writes into these three files is its network's.
    size = 0 if member.name.endswith(("hosts", "resolv.conf", "hostname")) else member.size
    return (member.name, member.type, member.mode & 0o7777, member.uid, size, member.linkname)


def answer(path: str, ask: Ask) -> dict[str, Any]:
    connection = _Unix(path)
    headers = dict(ask.headers)
    body = ask.body
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
        headers.setdefault("Content-Type", "application/json")
    connection.request(ask.method, f"/v1.41{ask.path}".replace('"', "%22"), body, headers)
    response = connection.getresponse()
    data = response.read()
    connection.close()
    kind = response.headers.get("Content-Type", "")
    found: dict[str, Any] = {"status": response.status, "type": kind}
    if stat := response.headers.get("X-Docker-Container-Path-Stat"):
        decoded = json.loads(base64.b64decode(stat))
        found["stat"] = {**decoded, "mtime": "", "size": 0 if decoded["mode"] >> 31 else decoded["size"]}
    if kind == "application/json" and data:
        lines = [json.loads(line) for line in data.splitlines() if line.strip()]
        found["body"] = [
            shape([_prune(one) for one in line] if isinstance(line, list) else _prune(line)) for line in lines[:1]
        ]
        found["message"] = lines[0].get("message", "") if isinstance(lines[0], dict) else ""
    elif kind == "application/x-tar":
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            # The link that dockerd makes in every container.
            found["body"] = [_member(one) for one in archive if one.name != "etc/mtab"]
    else:
        found["body"] = bool(data)
    return found


def _prepare(docker: list[str]) -> None:
    def run(*words: str, check: bool = True) -> None:
        subprocess.run(
            [*docker, *words], input=busybox_archive() if words == ("load",) else None, capture_output=True, check=check
        )

    run("load")
    network = ("--network", "none")
    run("create", "--name", "made", *network, "busybox", "sleep", "1000")
    run("run", "-d", "--name", "runs", *network, "busybox", "sleep", "100000")
    run("run", "--name", "ended", *network, "busybox", "sh", "-c", "echo out; echo err >&2; exit 3", check=False)
    run("run", "-d", "--name", "paused", *network, "busybox", "sleep", "100000")
    run("pause", "paused")
    run("run", "-d", "-t", "--name", "term", *network, "busybox", "sleep", "100000")


@pytest.fixture(scope="module")
def sockets() -> Iterator[tuple[str, str]]:
    """(vchd's, dockerd's), prepared alike."""
    folder = Path(tempfile.mkdtemp(prefix="vch-", dir="/tmp"))
    folder.chmod(0o711)
    daemon = Daemon(folder)
    with dockerd(folder, bridge=True) as other:
        if other is None:
            pytest.skip("no dockerd can run here")
        try:
            _prepare(["docker", "-H", f"unix://{other}"])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"dockerd cannot run containers here: {error.stderr!r}")
        daemon.start()
        try:
            _prepare(["docker", "-H", daemon.host])
            yield str(daemon.socket), str(other)
        finally:
            daemon.close()
            names = subprocess.run(["docker", "-H", f"unix://{other}", "ps", "-aq"], capture_output=True, check=False)
            for name in names.stdout.split():
                subprocess.run(["docker", "-H", f"unix://{other}", "rm", "-f", name], capture_output=True, check=False)
    shutil.rmtree(folder, ignore_errors=True)


def test_vchd_answers_as_dockerd_does(sockets: tuple[str, str]) -> None:
    assert len(ASKS) >= 150
    differing = {}
    for ask in ASKS:
        ours, theirs = (answer(path, ask) for path in sockets)
        for one in (ours, theirs):
            one.pop("message", None)
        if ours != theirs:
            differing[ask.name] = {"ours": ours, "theirs": theirs}
    unexpected = {name: found for name, found in differing.items() if name not in DIFFERENT}
    assert not unexpected, json.dumps(unexpected, indent=1, default=str)
    assert not DIFFERENT.keys() - differing.keys(), "these agree by now"
