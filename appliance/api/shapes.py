"""Containers as Docker's JSON, by API version."""

from typing import Any

import msgspec
from msgspec import UNSET

from appliance.api.backend import Container, NetworkBackend
from appliance.api.router import Version
from appliance.api.times import ago
from appliance.container.config import ContainerConfig
from appliance.container.container_record import Attachment
from appliance.container.fields import fields_of
from appliance.container.health import check_of
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created, Exited, Removing, Running, status_word
from appliance.container.mounts import MountRecord
from appliance.container.spec import arguments, masked_paths, readonly_paths
from appliance.container.times import rfc3339
from appliance.errors import InvalidParameter, NotFound
from appliance.logdrivers import driver_named


def _shown_defaults(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """What inspect shows of a Struct in which nothing is given: each field but the optional ones, by its JSON name."""
    shown = {}
    for field, member in zip(fields_of(struct).values(), msgspec.structs.fields(struct), strict=True):
        if field.shown is not None or member.default is not UNSET:
            shown[field.name] = member.default if field.shown is None else field.shown
    return shown


_CONFIG_DEFAULTS = _shown_defaults(ContainerConfig)
_HOST_DEFAULTS = _shown_defaults(HostConfig)


def host_config_shape(host_config: HostConfig, version: Version) -> dict[str, Any]:
    """HostConfig as inspect shows it."""
    given: dict[str, Any] = msgspec.to_builtins(host_config)
    shown = _HOST_DEFAULTS | given
    log_config = host_config.log_config
    shown["LogConfig"] = {"Type": log_config.type or "json-file", "Config": log_config.config}
    policy = host_config.restart_policy
    shown["RestartPolicy"] = {"Name": policy.name or "no", "MaximumRetryCount": policy.maximum_retry_count}
    if shown["NetworkMode"] in ("", "default"):
        shown["NetworkMode"] = "bridge" if version >= (1, 44) else "default"
    shown["MaskedPaths"] = masked_paths(host_config) or None
    shown["ReadonlyPaths"] = readonly_paths(host_config) or None
    # Values that change nothing are shown as null.
    if shown["MemorySwappiness"] == -1:
        shown["MemorySwappiness"] = None
    if shown["PidsLimit"] == 0:
        shown["PidsLimit"] = None
    if version < (1, 42):
        shown = {"KernelMemory": 0, "KernelMemoryTCP": 0, **shown}
    return shown


def config_shape(config: ContainerConfig) -> dict[str, Any]:
    """Config as inspect shows it."""
    given: dict[str, Any] = msgspec.to_builtins(config)
    shown = _CONFIG_DEFAULTS | given
    for name in ("ExposedPorts", "Healthcheck"):
        if not shown.get(name):
            shown.pop(name, None)
    return shown


def hide_env_values(shape: dict[str, Any], *members: str) -> None:
    """Replace the values of environment variables in the Config members of an inspect answer, for a client that must not see them."""
    for config in (shape[member] for member in members if member in shape):
        config["Env"] = [f"{entry.partition('=')[0]}=***" for entry in config["Env"] or ()]


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
    aliases = list(wanted.aliases or ())
    known = record is not None and record.names_are_known
    if version < (1, 45) and known and endpoint is not None:
        aliases.append(container.id[:12])
    shown: dict[str, Any] = {
        "IPAMConfig": wanted.ipam_config,
        "Links": wanted.links,
        "Aliases": aliases or None,
        "DriverOpts": wanted.driver_opts,
        "MacAddress": endpoint.mac if endpoint is not None else wanted.mac_address,
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
        names = [container.record.name, *(wanted.aliases or ()), container.id[:12]]
        shown["DNSNames"] = list(dict.fromkeys(names)) if known else None
    if version >= (1, 48):
        shown["GwPriority"] = wanted.gw_priority
    return shown


def _ports(container: Container) -> dict[str, Any]:
    """NetworkSettings.Ports: exposed ones too, while it runs."""
    if not container.endpoints:
        return {}
    ports: dict[str, Any] = {
        text if "/" in text else f"{text}/tcp": None for text in container.record.config.exposed_ports or ()
    }
    for one in container.record.bindings:
        allocator = ports.get(one.exposed) or []
        ports[one.exposed] = [*allocator, {"HostIp": one.host_ip, "HostPort": str(one.host_port)}]
    return ports


def list_ports(container: Container) -> list[dict[str, Any]]:
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
        "HostConfig": host_config_shape(record.host_config, version),
        "GraphDriver": {"Name": "erofs", "Data": {}},
        "Mounts": [mount_shape(mount) for mount in record.mounts],
        "Config": config_shape(record.config),
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
    network_mode = record.host_config.network_mode or "default"
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": record.image,
        "ImageID": record.image_id,
        "Command": " ".join([command.path, *command.args]),
        "Created": record.created // 1_000_000_000,
        "Ports": list_ports(container),
        "Labels": record.config.labels or {},
        "State": status_word(container.state),
        "Status": status_text(container, now_ns),
        "HostConfig": {"NetworkMode": "bridge" if network_mode == "default" and version >= (1, 44) else network_mode},
        "NetworkSettings": {
            "Networks": {one.network: endpoint_shape(container, one, networks, version) for one in record.attachments}
        },
        "Mounts": [mount_shape(mount) for mount in record.mounts],
    }
