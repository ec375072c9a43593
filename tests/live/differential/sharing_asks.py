"""Requests that concern containers which share namespaces. `runs` and `made` are those of `container_asks`."""

from tests.live.differential.asks import create, get, post

_RUNS: dict[str, object] = {"NetworkMode": "container:runs"}

SHARING = [
    # create
    create("n1", _RUNS),
    get("/containers/n1/json"),
    create("n2", {"NetworkMode": "container:"}),
    create("n3", _RUNS, Hostname="h"),
    create("n4", {**_RUNS, "Links": ["runs:r"]}),
    create("n5", {**_RUNS, "Dns": ["1.2.3.4"]}),
    create("n6", {**_RUNS, "ExtraHosts": ["a:1.2.3.4"]}),
    create("n7", {**_RUNS, "PortBindings": {"80/tcp": [{"HostPort": "0"}]}}),
    create("n8", {**_RUNS, "PublishAllPorts": True}),
    create("n9", _RUNS, ExposedPorts={"80/tcp": {}}),
    create("n10", _RUNS, MacAddress="02:00:00:00:00:01"),
    create("n11", {"NetworkMode": "container:nobody"}),
    create("n12", {"UTSMode": "host"}, Hostname="h"),
    create("p1", {"PidMode": "container:runs"}),
    get("/containers/p1/json"),
    create("p2", {"PidMode": "container:"}),
    create("p3", {"PidMode": "container:nobody"}),
    create("i1", {"IpcMode": "container:runs"}),
    get("/containers/i1/json"),
    create("i2", {"IpcMode": "container:"}),
    create("i3", {"IpcMode": "container:nobody"}),
    post("/networks/bridge/connect", {"Container": "n1"}),
    # start, where the other container does not run, does not exist, or keeps its IPC namespace for itself
    create("n13", {"NetworkMode": "container:made"}),
    post("/containers/n13/start"),
    post("/containers/n11/start"),
    create("p4", {"PidMode": "container:made"}),
    post("/containers/p4/start"),
    create("i4", {"IpcMode": "container:made"}),
    post("/containers/i4/start"),
    post("/containers/i1/start"),
]
