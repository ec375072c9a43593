"""Why an answer of vchd may differ from that of dockerd 20.10."""

_CLIENT = "the client's mistake: 4xx, as in moby from API 1.42 on and in the API's documentation; 1.41 answers 500"
_EARLY = "what cannot be started is refused when it is created"
_IMAGE = "a container without an image could do nothing"
_LOGS = "the media type that moby sends from API 1.42 on"
_ATTACH = "an error is an answer with its status, not text in a stream that was taken over"
_NEWER_CHECK = "an unknown condition is refused, as in moby from API 1.42 on"
_RANGE = "a terminal has at most 65535 rows; dockerd takes it modulo"
_SIZE = "a disk takes some room from the first, where dockerd counts nothing"

_GATEWAY = "a gateway that nobody has chosen is shown too, as in moby from 28.0 on"
_NEWER_START = "the status is that of moby from 26.0 on"
_NO_CONTAINER = "`container:` without a container is refused at the creation, as moby does from 23.0 on for PIDs"
_NO_NETWORK = "a container with the network of another container is connected to none, also while it does not run"
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
    "POST /containers/create?name=p2 of it": _NO_CONTAINER,
    "POST /containers/create?name=i2 of it": _NO_CONTAINER,
    "POST /networks/bridge/connect {'Container': 'n1'}": _NO_NETWORK,
    "POST /containers/n11/start": _NEWER_START,
    "POST /containers/i4/start": _NEWER_START,
    "POST /containers/i1/start": _NEWER_START,
    "POST /images/create": _CLIENT,
    "GET /system/df": _NULLS,
}  # fmt: skip

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
