"""Containers and images as Docker's JSON, by API version."""

import calendar
import time
from typing import Any

from appliance.api.backend import Container
from appliance.api.router import Version
from appliance.api.times import ago
from appliance.container.health import check_of
from appliance.container.lifecycle import Created, Exited, Removing, Running, status_word
from appliance.container.spec import arguments, masked_paths, readonly_paths
from appliance.container.times import ZERO, rfc3339
from appliance.image.store import ImageConfig, ImageRecord, familiar_names
from appliance.network import DefaultNetwork

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
        "Status": status_word(state), "Running": isinstance(state, Running) or container.restarting,
        "Paused": isinstance(state, Running) and state.paused, "Restarting": container.restarting,
        "OOMKilled": oom, "Dead": False, "Pid": pid, "ExitCode": code, "Error": error,
        "StartedAt": rfc3339(started), "FinishedAt": rfc3339(finished),
    }  # fmt: skip
    if container.health is not None and check_of(container.record.config) is not None:
        shown["Health"] = {
            "Status": container.health.status, "FailingStreak": container.health.streak,
            "Log": [
                {"Start": rfc3339(one.start), "End": rfc3339(one.end), "ExitCode": one.exit_code, "Output": one.output}
                for one in container.health.log
            ],
        }  # fmt: skip
    return shown


def _network_settings(container: Container, network: DefaultNetwork, version: Version) -> dict[str, Any]:
    record = container.record
    address = record.address if container.running else ""
    mac = "02:42:" + ":".join(f"{int(part):02x}" for part in address.split(".")) if address else ""
    endpoint: dict[str, Any] = {
        "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": mac, "DriverOpts": None, "NetworkID": "",
        "EndpointID": container.id if address else "", "Gateway": str(network.gateway) if address else "",
        "IPAddress": address, "IPPrefixLen": network.network.prefixlen if address else 0, "IPv6Gateway": "",
        "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
    }  # fmt: skip
    if version >= (1, 44):
        endpoint["DNSNames"] = None
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
    keeps_log = record.log_driver != "none"
    return {
        "Id": record.id, "Created": rfc3339(record.created), "Path": command.path, "Args": list(command.args),
        "State": container_state(container), "Image": record.image_id,
        "ResolvConfPath": "", "HostnamePath": "", "HostsPath": "",
        "LogPath": str(container.folder / "log.data") if keeps_log else "",
        "Name": f"/{record.name}", "RestartCount": record.restarts, "Driver": "erofs", "Platform": "linux",
        "MountLabel": "", "ProcessLabel": "", "AppArmorProfile": "", "ExecIDs": None, "HostConfig": _host_config(record.host, version),
        "GraphDriver": {"Name": "erofs", "Data": None}, "Mounts": [],
        "Config": _config(record.config),
        "NetworkSettings": _network_settings(container, network, version),
    }  # fmt: skip


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
    inner = _config(config.config)
    inner["Labels"] = config.config.get("Labels")
    shape: dict[str, Any] = {
        "Id": record.id, "RepoTags": familiar_names(record.references), "RepoDigests": familiar_names(record.digests),
        "Parent": "", "Comment": config.raw.get("comment") or "", "Created": config.raw.get("created") or ZERO,
        "DockerVersion": config.raw.get("docker_version") or "", "Author": config.raw.get("author") or "",
        "Config": inner, "Architecture": config.raw.get("architecture") or "amd64", "Os": config.raw.get("os") or "linux",
        "Size": size, "GraphDriver": {"Name": "erofs", "Data": None},
        "RootFS": {"Type": "layers", "Layers": config.diff_ids},
        "Metadata": {"LastTagTime": rfc3339(int(record.tagged * 1e9))},
    }  # fmt: skip
    if version < (1, 45):
        shape["Container"] = config.raw.get("container") or ""
        shape["ContainerConfig"] = _config(config.raw.get("container_config") or {"Labels": None})
    if config.raw.get("variant"):
        shape["Variant"] = config.raw["variant"]
    if version < (1, 44):
        shape["VirtualSize"] = size
    return shape
