"""Containers and images as Docker's JSON, by API version."""

import calendar
import time
from typing import Any

from appliance.api.backend import Container
from appliance.api.router import Version
from appliance.api.times import ZERO, ago, rfc3339
from appliance.container.lifecycle import Created, Exited, Removing, Running, status_word
from appliance.container.spec import arguments
from appliance.image.store import ImageConfig, ImageRecord, familiar_names
from appliance.network import DefaultNetwork

_CONFIG_DEFAULTS: dict[str, Any] = {
    "Hostname": "", "Domainname": "", "User": "", "AttachStdin": False, "AttachStdout": False, "AttachStderr": False,
    "Tty": False, "OpenStdin": False, "StdinOnce": False, "Env": None, "Cmd": None, "Image": "", "Volumes": None,
    "WorkingDir": "", "Entrypoint": None, "OnBuild": None, "Labels": {},
}  # fmt: skip
_HOST_DEFAULTS: dict[str, Any] = {
    "Binds": None, "ContainerIDFile": "", "NetworkMode": "bridge", "PortBindings": {}, "AutoRemove": False, "VolumeDriver": "",
    "VolumesFrom": None, "CapAdd": None, "CapDrop": None, "CgroupnsMode": "private", "Dns": [], "DnsOptions": [],
    "DnsSearch": [], "ExtraHosts": None, "GroupAdd": None, "IpcMode": "private", "Cgroup": "", "Links": None, "OomScoreAdj": 0,
    "PidMode": "", "Privileged": False, "PublishAllPorts": False, "ReadonlyRootfs": False, "SecurityOpt": None, "UTSMode": "",
    "UsernsMode": "", "ShmSize": 64 << 20, "Runtime": "vch", "ConsoleSize": [0, 0], "Isolation": "", "CpuShares": 0,
    "Memory": 0, "NanoCpus": 0, "CgroupParent": "", "BlkioWeight": 0, "CpuPeriod": 0, "CpuQuota": 0, "CpusetCpus": "",
    "CpusetMems": "", "Devices": [], "DeviceCgroupRules": None, "DeviceRequests": None, "MemoryReservation": 0,
    "MemorySwap": 0, "MemorySwappiness": None, "OomKillDisable": None, "PidsLimit": None, "Ulimits": [],
}  # fmt: skip


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
    return {
        "Status": status_word(state), "Running": isinstance(state, Running),
        "Paused": isinstance(state, Running) and state.paused, "Restarting": False,
        "OOMKilled": oom, "Dead": False, "Pid": pid, "ExitCode": code, "Error": error,
        "StartedAt": rfc3339(started), "FinishedAt": rfc3339(finished),
    }  # fmt: skip


def _network_settings(container: Container, network: DefaultNetwork, version: Version) -> dict[str, Any]:
    record = container.record
    address = record.address if container.running else ""
    mac = "02:42:" + ":".join(f"{int(part):02x}" for part in address.split(".")) if address else ""
    endpoint = {
        "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": mac, "DriverOpts": None, "NetworkID": "",
        "EndpointID": container.id if address else "", "Gateway": str(network.gateway) if address else "",
        "IPAddress": address, "IPPrefixLen": network.network.prefixlen if address else 0, "IPv6Gateway": "",
        "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": None,
    }  # fmt: skip
    name = "none" if record.host.get("NetworkMode") == "none" else "bridge"
    settings: dict[str, Any] = {
        "SandboxID": container.id if address else "",
        "SandboxKey": "",
        "Ports": {},
        "Networks": {name: endpoint},
    }
    if version < (1, 52):
        settings |= {
            "Bridge": "", "HairpinMode": False, "LinkLocalIPv6Address": "", "LinkLocalIPv6PrefixLen": 0,
            "SecondaryIPAddresses": None, "SecondaryIPv6Addresses": None, "EndpointID": endpoint["EndpointID"],
            "Gateway": endpoint["Gateway"], "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "IPAddress": address, "IPPrefixLen": endpoint["IPPrefixLen"], "IPv6Gateway": "", "MacAddress": mac,
        }  # fmt: skip
    return settings


def inspect_container(container: Container, network: DefaultNetwork, version: Version) -> dict[str, Any]:
    record = container.record
    command = arguments(record.config)
    keeps_log = (record.host.get("LogConfig") or {}).get("Type") != "none"
    host = {**_HOST_DEFAULTS, **record.host}
    host["LogConfig"] = {"Type": (record.host.get("LogConfig") or {}).get("Type") or "json-file",
                         "Config": (record.host.get("LogConfig") or {}).get("Config") or {}}  # fmt: skip
    host["RestartPolicy"] = record.host.get("RestartPolicy") or {"Name": "no", "MaximumRetryCount": 0}
    if host["NetworkMode"] in ("", "default"):
        host["NetworkMode"] = "bridge" if version >= (1, 44) else "default"
    return {
        "Id": record.id, "Created": rfc3339(record.created), "Path": command.path, "Args": list(command.args),
        "State": container_state(container), "Image": record.image_id,
        "ResolvConfPath": "", "HostnamePath": "", "HostsPath": "",
        "LogPath": str(container.folder / "log.data") if keeps_log else "",
        "Name": f"/{record.name}", "RestartCount": record.restarts, "Driver": "erofs", "Platform": "linux",
        "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": None, "HostConfig": host,
        "GraphDriver": {"Name": "erofs", "Data": None}, "Mounts": [],
        "Config": {**_CONFIG_DEFAULTS, **{k: v for k, v in record.config.items() if k not in ("HostConfig", "NetworkingConfig")}},
        "NetworkSettings": _network_settings(container, network, version),
    }  # fmt: skip


def status_text(container: Container, now_ns: int) -> str:
    """The column STATUS of docker ps."""
    match container.state:
        case Running(started, _, paused):
            return f"Up {ago(started, now_ns)}{' (Paused)' if paused else ''}"
        case Exited(_, finished, code):
            return f"Exited ({code}) {ago(finished, now_ns)} ago"
        case Removing():
            return "Removal In Progress"
        case _:
            return "Created"


def list_container(container: Container, network: DefaultNetwork, version: Version, now_ns: int) -> dict[str, Any]:
    record = container.record
    command = arguments(record.config)
    name = record.host.get("NetworkMode") or "default"
    settings = _network_settings(container, network, version)
    return {
        "Id": record.id, "Names": [f"/{record.name}"], "Image": record.image, "ImageID": record.image_id,
        "Command": " ".join([command.path, *command.args]), "Created": record.created // 1_000_000_000, "Ports": [],
        "Labels": record.config.get("Labels") or {}, "State": status_word(container.state),
        "Status": status_text(container, now_ns),
        "HostConfig": {"NetworkMode": "bridge" if name == "default" and version >= (1, 44) else name},
        "NetworkSettings": {"Networks": settings["Networks"]}, "Mounts": [],
    }  # fmt: skip


def list_image(
    record: ImageRecord, config: ImageConfig, size: int, containers: int, version: Version
) -> dict[str, Any]:
    tags, digests = familiar_names(record.references), familiar_names(record.digests)
    if version < (1, 43) and not tags:
        tags = ["<none>:<none>"]
    shape = {
        "Id": record.id, "ParentId": "", "RepoTags": tags, "RepoDigests": digests, "Created": _created(config),
        "Size": size, "SharedSize": -1, "Labels": config.config.get("Labels"), "Containers": containers,
    }  # fmt: skip
    if version < (1, 44):
        shape["VirtualSize"] = size
    return shape


def _created(config: ImageConfig) -> int:
    text = str(config.raw.get("created") or ZERO)[:19]
    try:
        return max(0, calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))) if not text.startswith("0001") else 0
    except ValueError:
        return 0


def inspect_image(record: ImageRecord, config: ImageConfig, size: int, version: Version) -> dict[str, Any]:
    inner = {**_CONFIG_DEFAULTS, **config.config}
    shape: dict[str, Any] = {
        "Id": record.id, "RepoTags": familiar_names(record.references), "RepoDigests": familiar_names(record.digests),
        "Parent": "", "Comment": config.raw.get("comment") or "", "Created": config.raw.get("created") or ZERO,
        "DockerVersion": config.raw.get("docker_version") or "", "Author": config.raw.get("author") or "",
        "Config": inner, "Architecture": config.raw.get("architecture") or "amd64", "Os": config.raw.get("os") or "linux",
        "Size": size, "GraphDriver": {"Name": "erofs", "Data": None},
        "RootFS": {"Type": "layers", "Layers": config.diff_ids},
        "Metadata": {"LastTagTime": rfc3339(int(record.tagged * 1e9))},
    }  # fmt: skip
    if config.raw.get("variant"):
        shape["Variant"] = config.raw["variant"]
    if version < (1, 44):
        shape["VirtualSize"] = size
    return shape
