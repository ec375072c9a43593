"""Containers and images as Docker's JSON, by API version."""

import calendar
import time
from typing import Any

import msgspec

from appliance.api.backend import Container, NetworkBackend
from appliance.api.router import Version
from appliance.api.times import ago
from appliance.container.container_record import Attachment
from appliance.container.health import check_of
from appliance.container.lifecycle import Created, Exited, Removing, Running, status_word
from appliance.container.mounts import MountRecord
from appliance.container.spec import arguments, masked_paths, readonly_paths
from appliance.container.times import ZERO, rfc3339
from appliance.errors import InvalidParameter, NotFound
from appliance.image.config import ImageConfig
from appliance.image.store import ImageRecord, familiar_names
from appliance.logdrivers import driver_named
from appliance.network.network_record import NetworkRecord

_CONFIG_DEFAULTS: dict[str, Any] = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
    "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None, "Image": "", "Volumes": None,
    "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": {},
}  # fmt: skip
_HOST_DEFAULTS: dict[str, Any] = {
    "Binds": None, "ContainerIDFile": "", "NetworkMode": "bridge", "PortBindings": None, "AutoRemove": False, "VolumeDriver": "",
    "VolumesFrom": None, "CapAdd": None, "CapDrop": None, "CgroupnsMode": "private", "Dns": None, "DnsOptions": None,
    "DnsSearch": None, "ExtraHosts": None, "GroupAdd": None, "IpcMode": "private", "Cgroup": "", "Links": None, "OomScoreAdj": 0,
    "PidMode": "", "Privileged": False, "PublishAllPorts": False, "ReadonlyRootfs": False, "SecurityOpt": None, "UTSMode": "",
    "UsernsMode": "", "ShmSize": 64 << 20, "Runtime": "vch", "ConsoleSize": [0, 0], "Isolation": "", "CpuShares": 0,
    "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "BlkioWeightDevice": None, "BlkioDeviceReadBps": None,
    "BlkioDeviceWriteBps": None, "BlkioDeviceReadIOps": None, "BlkioDeviceWriteIOps": None, "CpuPeriod": 0, "CpuQuota": 0,
    "CpuRealtimePeriod": 0, "CpuRealtimeRuntime": 0, "CpusetCpus": "", "CpusetMems": "", "Devices": None,
    "DeviceCgroupRules": None, "DeviceRequests": None, "MemoryReservation": 0, "MemorySwap": 0, "MemorySwappiness": None,
    "OomKillDisable": False, "PidsLimit": None, "Ulimits": None, "CpuCount": 0, "CpuPercent": 0, "IOMaximumIOps": 0,
    "IOMaximumBandwidth": 0,
}  # fmt: skip


def _host_config(host: dict[str, Any], version: Version) -> dict[str, Any]:
    shown = {**_HOST_DEFAULTS, **host}
    config = host.get("LogConfig") or {}
    shown["LogConfig"] = {"Type": config.get("Type") or "json-file", "Config": config.get("Config") or {}}
    shown["RestartPolicy"] = host.get("RestartPolicy") or {"Name": "no", "MaximumRetryCount": 0}
    if shown["NetworkMode"] in ("", "default"):
        shown["NetworkMode"] = "bridge" if version >= (1, 44) else "default"
    shown["MaskedPaths"] = masked_paths(host) or None
    shown["ReadonlyPaths"] = readonly_paths(host) or None
    # What means "as it is" is shown as not given.
    if shown["MemorySwappiness"] == -1:
        shown["MemorySwappiness"] = None
    if shown["PidsLimit"] == 0:
        shown["PidsLimit"] = None
    for key in ("IpcMode", "CgroupnsMode", "Runtime", "ShmSize"):
        shown[key] = shown[key] or _HOST_DEFAULTS[key]
    if version < (1, 42):
        shown = {"KernelMemory": 0, "KernelMemoryTCP": 0, **shown}
    return shown


def _config(config: dict[str, Any]) -> dict[str, Any]:
    shown = {key: value for key, value in config.items() if key not in ("HostConfig", "NetworkingConfig")}
    for key in ("ExposedPorts", "Healthcheck"):
        if not shown.get(key):
            shown.pop(key, None)
    return {**_CONFIG_DEFAULTS, **shown}


def container_state(container: Container) -> dict[str, Any]:
    state = container.state
    code, error, oom, started, finished, pid = 0, "", False, 0, 0, 0
    match state:
        case Created(text, number):
            error, code = text, number
        case Running(at, number):
            started, pid = at, number
        case Exited(begun, ended, number, killed, text):
            started, finished, code, oom, error = begun, ended, number, killed, text
        case _:
            pass
    shown: dict[str, Any] = {
        "Status": status_word(state),
        "Running": isinstance(state, Running) or container.restarting,
        "Paused": isinstance(state, Running) and state.paused,
        "Restarting": container.restarting,
        "OOMKilled": oom,
        "Dead": False,
        "Pid": pid,
        "ExitCode": code,
        "Error": error,
        "StartedAt": rfc3339(started),
        "FinishedAt": rfc3339(finished),
    }
    if container.health is not None and check_of(container.record.config) is not None:
        shown["Health"] = {
            "Status": container.health.status,
            "FailingStreak": container.health.streak,
            "Log": [
                {"Start": rfc3339(one.start), "End": rfc3339(one.end), "ExitCode": one.exit_code, "Output": one.output}
                for one in container.health.log
            ],
        }
    return shown


def endpoint_shape(
    container: Container, attachment: Attachment, networks: NetworkBackend, version: Version
) -> dict[str, Any]:
    """EndpointSettings of one network."""
    wanted = attachment.wanted
    endpoint = next((one for one in container.endpoints if one.network.name == attachment.network), None)
    try:
        record = endpoint.network if endpoint is not None else networks.get(attachment.network_id or attachment.network)
    except (NotFound, InvalidParameter):
        record = None
    ipv4, ipv6 = (endpoint.ipv4, endpoint.ipv6) if endpoint is not None else (None, None)
    aliases = list(wanted.get("Aliases") or ())
    known = record is not None and record.names_are_known
    if version < (1, 45) and known and endpoint is not None:
        aliases.append(container.id[:12])
    shown: dict[str, Any] = {
        "IPAMConfig": wanted.get("IPAMConfig"),
        "Links": wanted.get("Links"),
        "Aliases": aliases or None,
        "DriverOpts": wanted.get("DriverOpts"),
        "MacAddress": endpoint.mac if endpoint is not None else wanted.get("MacAddress") or "",
        "NetworkID": record.id if record is not None and (endpoint is not None or container.record.started) else "",
        "EndpointID": endpoint.id if endpoint is not None else "",
        "Gateway": ipv4.gateway if ipv4 is not None else "",
        "IPAddress": ipv4.address if ipv4 is not None else "",
        "IPPrefixLen": ipv4.prefix if ipv4 is not None else 0,
        "IPv6Gateway": ipv6.gateway if ipv6 is not None else "",
        "GlobalIPv6Address": ipv6.address if ipv6 is not None else "",
        "GlobalIPv6PrefixLen": ipv6.prefix if ipv6 is not None else 0,
    }
    if version >= (1, 44):
        names = [container.record.name, *(wanted.get("Aliases") or ()), container.id[:12]]
        shown["DNSNames"] = list(dict.fromkeys(names)) if known else None
    if version >= (1, 48):
        shown["GwPriority"] = int(wanted.get("GwPriority") or 0)
    return shown


def _ports(container: Container) -> dict[str, Any]:
    """NetworkSettings.Ports: exposed ones too, while it runs."""
    if not container.endpoints:
        return {}
    ports: dict[str, Any] = {
        text if "/" in text else f"{text}/tcp": None for text in container.record.config.get("ExposedPorts") or ()
    }
    for one in container.record.bindings:
        allocator = ports.get(one.exposed) or []
        ports[one.exposed] = [*allocator, {"HostIp": one.host_ip, "HostPort": str(one.host_port)}]
    return ports


def _list_ports(container: Container) -> list[dict[str, Any]]:
    """The rows of `docker ps`."""
    rows: list[dict[str, Any]] = []
    for exposed, allocator in _ports(container).items():
        port, _, protocol = exposed.partition("/")
        if not port.isdigit():
            continue
        for place in allocator or [None]:
            row: dict[str, Any] = {"PrivatePort": int(port), "Type": protocol}
            if place is not None:
                row = {"IP": place["HostIp"], **row, "PublicPort": int(place["HostPort"])}
            rows.append(row)
    return rows


def _network_settings(container: Container, networks: NetworkBackend, version: Version) -> dict[str, Any]:
    shapes = {
        attachment.network: endpoint_shape(container, attachment, networks, version)
        for attachment in container.record.attachments
    }
    running = bool(container.endpoints)
    settings: dict[str, Any] = {
        "SandboxID": container.id if running else "",
        "SandboxKey": "",
        "Ports": _ports(container),
        "Networks": shapes,
    }
    if version < (1, 52):
        endpoint = shapes.get("bridge") or dict.fromkeys(_TOP_LEVEL, "")
        settings |= {
            "Bridge": "",
            "HairpinMode": False,
            "LinkLocalIPv6Address": "",
            "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None,
            "SecondaryIPv6Addresses": None,
            **{key: endpoint[key] or (0 if key.endswith("Len") else "") for key in _TOP_LEVEL},
        }
    return settings


_TOP_LEVEL = (
    "EndpointID",
    "Gateway",
    "GlobalIPv6Address",
    "GlobalIPv6PrefixLen",
    "IPAddress",
    "IPPrefixLen",
    "IPv6Gateway",
    "MacAddress",
)


def mount_shape(mount: MountRecord) -> dict[str, Any]:
    """A mount point as inspect and list show it."""
    shown: dict[str, Any] = {"Type": mount.type}
    if mount.type == "volume":
        shown["Name"] = mount.name
    shown |= {"Source": mount.source, "Destination": mount.destination}
    if mount.type == "volume":
        shown["Driver"] = "local"
    return shown | {"Mode": mount.mode, "RW": not mount.read_only, "Propagation": mount.propagation}


def inspect_container(container: Container, networks: NetworkBackend, version: Version) -> dict[str, Any]:
    record = container.record
    command = arguments(record.config)
    keeps_log = driver_named(record.log_driver).limits(record.log_options) is not None
    return {
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Path": command.path,
        "Args": list(command.args),
        "State": container_state(container),
        "Image": record.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": str(container.folder / "log.data") if keeps_log else "",
        "Name": f"/{record.name}",
        "RestartCount": record.restarts,
        "Driver": "erofs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": _host_config(record.host, version),
        "GraphDriver": {"Name": "erofs", "Data": None},
        "Mounts": [mount_shape(mount) for mount in record.mounts],
        "Config": _config(record.config),
        "NetworkSettings": _network_settings(container, networks, version),
    }


def _health_word(container: Container) -> str:
    assert container.health is not None
    return "health: starting" if container.health.status == "starting" else container.health.status


def status_text(container: Container, now_ns: int) -> str:
    """The column STATUS of docker ps."""
    match container.state:
        case Running(started, _, paused):
            health = f" ({_health_word(container)})" if container.health is not None else ""
            return f"Up {ago(started, now_ns)}{' (Paused)' if paused else health}"
        case Exited(_, finished, code) if container.restarting:
            return f"Restarting ({code}) {ago(finished, now_ns)} ago"
        case Exited(_, finished, code):
            return f"Exited ({code}) {ago(finished, now_ns)} ago"
        case Removing():
            return "Removal In Progress"
        case _:
            return "Created"


def list_container(container: Container, networks: NetworkBackend, version: Version, now_ns: int) -> dict[str, Any]:
    record = container.record
    command = arguments(record.config)
    name = record.host.get("NetworkMode") or "default"
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.image,
        "ImageID": record.image_id,
        "Command": " ".join([command.path, *command.args]),
        "Created": record.created // 1_000_000_000,
        "Ports": _list_ports(container),
        "Labels": record.config.get("Labels") or {},
        "State": status_word(container.state),
        "Status": status_text(container, now_ns),
        "HostConfig": {"NetworkMode": "bridge" if name == "default" and version >= (1, 44) else name},
        "NetworkSettings": {
            "Networks": {one.network: endpoint_shape(container, one, networks, version) for one in record.attachments}
        },
        "Mounts": [mount_shape(mount) for mount in record.mounts],
    }


def list_image(
    record: ImageRecord, config: ImageConfig, size: int, containers: int, version: Version
) -> dict[str, Any]:
    tags, digests = familiar_names(record.references), familiar_names(record.digests)
    if version < (1, 43) and not tags:
        tags = ["<none>:<none>"]
    shape = {
        "Id": record.id,
        "ParentId": record.parent,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Created": created_of(config),
        "Size": size,
        "SharedSize": -1,
        "Labels": config.config.get("Labels"),
        "Containers": containers,
    }
    if version < (1, 44):
        shape["VirtualSize"] = size
    return shape


def created_of(config: ImageConfig) -> int:
    """Unix seconds."""
    return seconds_of(config.created)


def seconds_of(when: Any) -> int:
    """Unix seconds of a time in an image's config; 0 for none."""
    text = str(when or ZERO)[:19]
    try:
        return max(0, calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))) if not text.startswith("0001") else 0
    except ValueError:
        return 0


def inspect_image(record: ImageRecord, config: ImageConfig, size: int, version: Version) -> dict[str, Any]:
    inner = _config(config.config)
    inner["Labels"] = config.config.get("Labels")
    shape: dict[str, Any] = {
        "Id": record.id,
        "RepoTags": familiar_names(record.references),
        "RepoDigests": familiar_names(record.digests),
        "Parent": record.parent,
        "Comment": config.comment or "",
        "Created": config.created or ZERO,
        "DockerVersion": config.docker_version or "",
        "Author": config.author or "",
        "Config": inner,
        "Architecture": config.platform.architecture,
        "Os": config.platform.system,
        "Size": size,
        "GraphDriver": {"Name": "erofs", "Data": None},
        "RootFS": {"Type": "layers", "Layers": config.diff_ids},
        "Metadata": {"LastTagTime": rfc3339(int(record.tagged * 1e9))},
    }
    if version < (1, 45):
        shape["Container"] = msgspec.json.decode(config.container) or ""
        shape["ContainerConfig"] = _config(msgspec.json.decode(config.container_config) or {"Labels": None})
    if config.variant:
        shape["Variant"] = config.variant
    if version < (1, 44):
        shape["VirtualSize"] = size
    return shape


def network_shape(
    record: NetworkRecord, networks: NetworkBackend, version: Version, *, members: bool
) -> dict[str, Any]:
    """A network, with those who are on it or without."""
    configs = []
    for pool in record.pools:
        config: dict[str, Any] = {"Subnet": pool.subnet}
        if pool.ip_range:
            config["IPRange"] = pool.ip_range
        if pool.gateway or not record.is_external:
            config["Gateway"] = pool.gateway
        if pool.aux:
            config["AuxiliaryAddresses"] = pool.aux
        configs.append(config)
    options = dict(record.options)
    if record.name == "bridge":
        options = {
            "com.docker.network.bridge.default_bridge": "true",
            "com.docker.network.bridge.enable_icc": "true",
            "com.docker.network.bridge.enable_ip_masquerade": "true",
            "com.docker.network.bridge.host_binding_ipv4": "0.0.0.0",
            "com.docker.network.bridge.name": record.bridge,
            "com.docker.network.driver.mtu": "1500",
            **options,
        }
    if record.is_external:
        options = {"vch.network": record.bridge, "vch.firewall": record.firewall, "vch.dns": ",".join(record.dns)}
    shape: dict[str, Any] = {
        "Name": record.name,
        "Id": record.id,
        "Created": rfc3339(record.created),
        "Scope": record.scope,
        "Driver": record.driver,
        "EnableIPv6": record.ipv6,
        "IPAM": {
            "Driver": "dhcp" if record.dhcp else "default",
            "Options": record.ipam_options,
            "Config": configs if record.driver not in ("host", "null") else None if version >= (1, 48) else [],
        },
        "Internal": record.internal,
        "Attachable": record.attachable,
        "Ingress": record.ingress,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": {},
        "Options": options,
        "Labels": record.labels,
    }
    if version >= (1, 48):
        shape["EnableIPv4"] = record.ipv4
    if members:
        shape["Containers"] = {
            container.id: {
                "Name": container.record.name,
                "EndpointID": endpoint.id,
                "MacAddress": endpoint.mac,
                "IPv4Address": endpoint.ipv4.cidr if endpoint.ipv4 is not None else "",
                "IPv6Address": endpoint.ipv6.cidr if endpoint.ipv6 is not None else "",
            }
            for container, endpoint in networks.members(record)
        }
    return shape
