"""What a client asks of a build: the query parameters of `POST /build` (API 1.22 to 1.51), each with its decision.

`api/BUILD_FIELDS.md` is written from these declarations. `frontend_attributes` turns a request into the attributes of BuildKit's frontend
`dockerfile.v0` (buildkit frontend/dockerui/{config,attr}.go; moby daemon/internal/builder-next/builder.go Build).
"""

import ipaddress
import re
from typing import Annotated

import msgspec

from appliance.container.fields import Int64, honoured, refused, warned
from appliance.errors import InvalidParameter

DEFAULT_DOCKERFILE = "Dockerfile"
CLIENT_SESSION = "client-session"
UPLOAD_REQUEST = "upload-request"
HOST_GATEWAY = "host-gateway"
_MACHINE_NETWORKS = ("", "default", "bridge")
"""Values of `networkmode` that mean the network that a RUN has anyway."""
_INVALID_HOST = re.compile(r'[\s,="]')
# moby builder/remotecontext/urlutil.
_URL = re.compile(r"^(https?://|git://|github\.com/|git@)")
_CPUS = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_ULIMIT = re.compile("core|cpu|data|fsize|locks|memlock|msgqueue|nice|nofile|nproc|rss|rtprio|rttime|sigpending|stack")


class BuildUlimit(msgspec.Struct, rename="pascal", frozen=True):
    """A resource limit of each RUN. -1 means unlimited."""

    name: str = ""
    soft: Int64 = 0
    hard: Int64 = 0


class BuildOutput(msgspec.Struct, rename="pascal", frozen=True):
    """Where the result goes: an exporter of BuildKit, and its attributes."""

    type: str = ""
    attrs: dict[str, str] = {}


class BuildRequest(msgspec.Struct, kw_only=True, frozen=True):
    """The query parameters of `POST /build`. The attribute of each is the parameter's name."""

    dockerfile: Annotated[str, honoured("its path in the context; `Dockerfile` if empty")] = ""
    t: Annotated[tuple[str, ...], honoured("may be repeated; the image gets each name")] = ()
    remote: Annotated[str, honoured("a git repository, or a tar or a Dockerfile by http; BuildKit fetches it")] = ""
    q: Annotated[bool, honoured("the answer holds the image's ID alone")] = False
    nocache: Annotated[bool, honoured()] = False
    pull: Annotated[bool, honoured("base images come from their registries")] = False
    rm: Annotated[bool, honoured("BuildKit leaves no containers, whatever the value")] = True
    forcerm: Annotated[bool, honoured("BuildKit leaves no containers, whatever the value")] = False
    buildargs: Annotated[dict[str, str | None], honoured("a map; null means no value")] = {}
    labels: Annotated[dict[str, str], honoured()] = {}
    target: Annotated[str, honoured("the stage to build")] = ""
    platform: Annotated[str, honoured("from API 1.32 on; a RUN needs programs that the CPU can run")] = ""
    cachefrom: Annotated[list[str], honoured("images whose cache BuildKit uses, beside its own cache")] = []
    extrahosts: Annotated[tuple[str, ...], honoured("may be repeated; `NAME:IP`, or `NAME:host-gateway`")] = ()
    networkmode: Annotated[
        str, honoured("`default` and `bridge`, `none`, or `host`: the builder's network; 400 for another network")
    ] = ""
    memory: Annotated[Int64, honoured("bytes of each RUN; 400 for more memory than the builder has")] = 0
    memswap: Annotated[Int64, honoured("bytes of memory and swap of each RUN; -1 means unlimited")] = 0
    cpushares: Annotated[Int64, honoured("of each RUN")] = 0
    cpuperiod: Annotated[Int64, honoured("microseconds, of each RUN")] = 0
    cpuquota: Annotated[Int64, honoured("microseconds, of each RUN")] = 0
    cpusetcpus: Annotated[str, honoured("CPUs of the builder that each RUN may use")] = ""
    cpusetmems: Annotated[str, honoured("memory nodes of the builder that each RUN may use")] = ""
    shmsize: Annotated[Int64, honoured("bytes of `/dev/shm` of each RUN")] = 0
    ulimits: Annotated[list[BuildUlimit], honoured("resource limits of each RUN")] = []
    outputs: Annotated[list[BuildOutput], honoured("from API 1.40 on, with version 2; at most one")] = []
    version: Annotated[str, honoured("1: text of the classic builder; 2: BuildKit's messages")] = "1"
    session: Annotated[str, honoured("with version 2: the client's session, which has the context and its secrets")] = (
        ""
    )
    buildid: Annotated[str, honoured("with version 2: names the build for `/build/cancel` and for an upload")] = ""
    cgroupparent: Annotated[str, warned("RUNs are in a cgroup of the builder's machine")] = ""
    isolation: Annotated[str, refused("for Windows only", "default")] = ""
    squash: Annotated[bool, refused("BuildKit cannot squash; use several stages")] = False
    securityopt: Annotated[tuple[str, ...], refused("security options are not supported on linux")] = ()

    @property
    def dockerfile_path(self) -> str:
        """The Dockerfile's path in the context."""
        return self.dockerfile if self.dockerfile not in ("", ".") else DEFAULT_DOCKERFILE

    @property
    def is_buildkit(self) -> bool:
        """Whether the client reads BuildKit's messages."""
        return self.version == "2"


class PruneRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `POST /build/prune` removes: records that match all `filters` (BuildKit's), if they were not used for `keep_duration` ns.

    `everything`: also records that are not dangling. Spaces are bytes, 0 for no bound.
    """

    everything: bool = False
    filters: tuple[str, ...] = ()
    keep_duration: int = 0
    reserved_space: int = 0
    max_used_space: int = 0
    min_free_space: int = 0


class BuilderFacts(msgspec.Struct, frozen=True):
    """What a request is compared with: bytes of the builder's memory, and the address that containers know as `host-gateway`.

    0 and "": not known.
    """

    memory: int = 0
    gateway: str = ""


def check_build_request(request: BuildRequest) -> list[str]:
    """Refuse what no builder could do, in moby's words. Returns warnings. InvalidParameter."""
    if request.version not in ("1", "2"):
        raise InvalidParameter(f'invalid version "{request.version}"')
    if request.securityopt:
        raise InvalidParameter("security options are not supported on linux")
    if request.squash:
        raise InvalidParameter("squash is not supported: BuildKit cannot squash; use several stages")
    if request.isolation not in ("", "default"):
        raise InvalidParameter(f'unsupported isolation: "{request.isolation}"')
    if request.networkmode not in (*_MACHINE_NETWORKS, "none", "host"):
        raise InvalidParameter(f'network mode "{request.networkmode}" not supported by buildkit')
    if len(request.outputs) > 1:
        raise InvalidParameter("multiple outputs not supported")
    if not request.is_buildkit and (request.outputs or request.remote in (CLIENT_SESSION, UPLOAD_REQUEST)):
        raise InvalidParameter("outputs and client sessions need version 2 of the builder (BuildKit)")
    if request.remote == CLIENT_SESSION and not request.session:
        raise InvalidParameter("remote client-session needs the parameter session")
    if request.remote not in ("", CLIENT_SESSION, UPLOAD_REQUEST) and not _URL.search(request.remote):
        raise InvalidParameter(f"remoteURL ({request.remote}) could not be recognized as URL")
    if request.remote == UPLOAD_REQUEST and not request.buildid:
        raise InvalidParameter("remote upload-request needs the parameter buildid")
    _check_limits(request)
    return ["cgroupparent was discarded: RUNs are in a cgroup of the builder's machine"] if request.cgroupparent else []


def _check_limits(request: BuildRequest) -> None:
    limits = {
        "memory": request.memory,
        "cpushares": request.cpushares,
        "cpuperiod": request.cpuperiod,
        "cpuquota": request.cpuquota,
        "shmsize": request.shmsize,
    }
    for name, value in limits.items():
        if value < 0:
            raise InvalidParameter(f"invalid {name} value: {value}: must be > 0")
    if request.memswap < -1:
        raise InvalidParameter(f"invalid memswap value: {request.memswap}: must be -1 (unlimited) or > 0")
    if 0 < request.memswap < request.memory:
        raise InvalidParameter("Minimum memoryswap limit should be larger than memory limit, see usage")
    for name, text in (("cpusetcpus", request.cpusetcpus), ("cpusetmems", request.cpusetmems)):
        if text and not _CPUS.fullmatch(text):
            raise InvalidParameter(f"invalid {name} value: {text}")
    for limit in request.ulimits:
        if not _ULIMIT.fullmatch(limit.name):
            raise InvalidParameter(f"invalid ulimit type: {limit.name}")
        if limit.hard != -1 and (limit.soft > limit.hard or limit.soft == -1):
            raise InvalidParameter(
                f"ulimit soft limit must be less than or equal to hard limit: {limit.soft} > {limit.hard}"
            )


def frontend_attributes(request: BuildRequest, builder: BuilderFacts) -> dict[str, str]:
    """The attributes of the frontend, without `context` and `filename`. InvalidParameter for what this builder cannot do."""
    if builder.memory and request.memory > builder.memory:
        raise InvalidParameter(
            f"memory {request.memory} is more than the builder has: {builder.memory} bytes, see --builder-memory"
        )
    texts = {
        "target": request.target,
        "platform": request.platform,
        "image-resolve-mode": "pull" if request.pull else "default",
        "cache-from": ",".join(request.cachefrom),
        "add-hosts": ",".join(_extra_hosts(request.extrahosts, builder.gateway)),
        "force-network-mode": "" if request.networkmode in _MACHINE_NETWORKS else request.networkmode,
        "ulimit": ",".join(f"{limit.name}={limit.soft}:{limit.hard}" for limit in request.ulimits),
        "cpusetcpus": request.cpusetcpus,
        "cpusetmems": request.cpusetmems,
    }
    numbers = {
        "memory": request.memory,
        "memswap": request.memswap,
        "cpushares": request.cpushares,
        "cpuperiod": request.cpuperiod,
        "cpuquota": request.cpuquota,
        "shm-size": request.shmsize,
    }
    attributes = {name: text for name, text in texts.items() if text}
    attributes |= {name: str(number) for name, number in numbers.items() if number}
    attributes |= {f"build-arg:{name}": value for name, value in request.buildargs.items() if value is not None}
    attributes |= {f"label:{name}": value for name, value in request.labels.items()}
    if request.nocache:
        attributes["no-cache"] = ""
    return attributes


def wants_inline_cache(request: BuildRequest) -> bool:
    """Whether the image is to carry its own cache (moby: the build argument BUILDKIT_INLINE_CACHE, by Go's strconv.ParseBool)."""
    return request.buildargs.get("BUILDKIT_INLINE_CACHE") in ("1", "t", "T", "true", "TRUE", "True")


def _extra_hosts(given: tuple[str, ...], gateway: str) -> list[str]:
    hosts = []
    for text in given:
        host, _, address = text.partition(":")
        if address == HOST_GATEWAY:
            if not gateway:
                raise InvalidParameter("unable to derive the IP value for host-gateway")
            address = gateway
        if not host or _INVALID_HOST.search(host) or not _is_address(address):
            raise InvalidParameter(f"invalid host {text}")
        hosts.append(f"{host}={address.strip('[]')}")
    return hosts


def _is_address(text: str) -> bool:
    try:
        # BuildKit's parser knows no zones (net.ParseIP).
        return "%" not in text and bool(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        return False
