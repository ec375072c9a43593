"""Containers that share a machine: whose namespaces a container joins, and Docker's texts for what that excludes. Pure.

`container:X` as NetworkMode, PidMode or IpcMode puts a container into the machine of container X. The label `vch.machine=NAME` of a create
request puts containers of one owner into one machine, without shared namespaces.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from appliance.container.container_record import NAME, ContainerRecord
from appliance.container.host_config import HostConfig
from appliance.errors import Conflict, InvalidParameter, NotFound, VchError

CONTAINER = "container:"
# moby's text for a container without a network of its own that a client connects to one.
SHARED_NETWORK = (
    "container sharing network namespace with another container or host cannot be connected to any other network"
)
_MACHINE_LABEL = "vch.machine"
_MEMORY_LABEL = "vch.machine-memory"
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MOST_NAME = 128
_MOST_MEMORY = 1 << 42


@dataclass(frozen=True, slots=True)
class SharedNamespaces:
    """The containers whose namespaces a container joins, by name or id; "" for a namespace of its own."""

    network: str = ""
    pid: str = ""
    ipc: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """The containers, each once."""
        return tuple(dict.fromkeys(filter(None, (self.network, self.pid, self.ipc))))


def shared_namespaces(host_config: HostConfig) -> SharedNamespaces:
    """The namespaces that `container:X` modes name."""
    return SharedNamespaces(
        target_of(host_config.network_mode or ""), target_of(host_config.pid_mode), target_of(host_config.ipc_mode)
    )


def shares_namespaces(host_config: HostConfig) -> bool:
    """Whether the container joins a namespace of another container. Cheap, since each start asks this of all containers."""
    network = host_config.network_mode
    return (
        (network is not None and network.startswith(CONTAINER))
        or host_config.pid_mode.startswith(CONTAINER)
        or host_config.ipc_mode.startswith(CONTAINER)
    )


def target_of(mode: str) -> str:
    """X of the mode `container:X`; "" for other modes."""
    return mode.removeprefix(CONTAINER) if mode.startswith(CONTAINER) else ""


def shares_network(host_config: HostConfig) -> bool:
    """Whether the container has the network of another container, and none of its own."""
    return bool(target_of(host_config.network_mode or ""))


def machine_name(labels: Mapping[str, str]) -> str:
    """NAME of the label `vch.machine=NAME`; "" without the label. InvalidParameter for an invalid name."""
    name = labels.get(_MACHINE_LABEL, "")
    if _MACHINE_LABEL in labels and (not NAME.fullmatch(name) or len(name) > _MOST_NAME):
        raise InvalidParameter(
            f"invalid label {_MACHINE_LABEL}={name[:_MOST_NAME]}: only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )
    return name


def machine_memory(labels: Mapping[str, str]) -> int:
    """Bytes of the label `vch.machine-memory=SIZE`, such as 512m; 0 without the label. InvalidParameter for another text."""
    if _MEMORY_LABEL not in labels:
        return 0
    text = labels[_MEMORY_LABEL]
    found = re.fullmatch(r"([0-9]{1,15})([bkmgt]?)b?", text.strip().lower())
    if found is None:
        raise InvalidParameter(
            f"invalid label {_MEMORY_LABEL}={text[:_MOST_NAME]}: the size has a form such as 512m or 2g"
        )
    size = int(found[1]) * _UNITS[found[2]]
    if size > _MOST_MEMORY:
        raise InvalidParameter(f"invalid label {_MEMORY_LABEL}={text}: no machine is so large")
    return size


def pin(host_config: HostConfig, find: Callable[[str], str]) -> HostConfig:
    """A HostConfig whose modes name other containers by their ids, so that a rename changes nothing (moby's adaptSharedNamespaceContainer).

    `find` gives a container's id, or raises NotFound. InvalidParameter for an unknown container as PidMode or IpcMode. An unknown container
    as NetworkMode stays: as in Docker, the start reports it.
    """
    shared = shared_namespaces(host_config)
    changes = {}
    for field, target in (("ipc_mode", shared.ipc), ("pid_mode", shared.pid)):
        if target:
            try:
                changes[field] = CONTAINER + find(target)
            except NotFound as error:
                # 400, as in moby's generateSecurityOpt: for 404 a client would pull the image.
                raise InvalidParameter(str(error)) from error
    if shared.network:
        try:
            changes["network_mode"] = CONTAINER + find(shared.network)
        except NotFound:
            pass
    return msgspec.structs.replace(host_config, **changes)


@dataclass(frozen=True, slots=True)
class Target:
    """A container whose namespaces another container joins. `status` is Docker's word for its state, such as "exited"."""

    record: ContainerRecord
    status: str
    running: bool
    restarting: bool


def check_targets(container_id: str, host_config: HostConfig, find: Callable[[str], Target]) -> None:
    """Raise Docker's error for the first namespace that a container cannot join at its start, in moby's order.

    `find` raises NotFound. The statuses are moby's: a target that does not run is a conflict for network and IPC, and a system error for
    PID (getNetworkedContainer, getIPCContainer, getPIDContainer; createSpec makes a system error of everything).
    """
    shared = shared_namespaces(host_config)
    if shared.network:
        _check_network(container_id, shared.network, find)
    if shared.ipc:
        before = "failed to join IPC namespace: "
        try:
            target = _running(shared.ipc, find)
        except NotFound as error:
            raise InvalidParameter(f"{before}{error}") from error
        except Conflict as error:
            raise Conflict(f"{before}{error}") from error
        if not _has_shareable_ipc(target.record):
            raise InvalidParameter(
                f"{before}container {shared.ipc}: non-shareable IPC (hint: use IpcMode:shareable for the donor container)"
            )
    if shared.pid:
        try:
            _running(shared.pid, find)
        except VchError as error:
            raise VchError(f"failed to join PID namespace: {error}") from error


def _check_network(container_id: str, ref: str, find: Callable[[str], Target]) -> None:
    try:
        target = find(ref)
    except NotFound as error:
        raise VchError(f"joining network namespace of container: {error}") from error
    if target.record.id == container_id:
        raise VchError("cannot join own network namespace")
    if target.restarting:
        raise Conflict(f"cannot join network namespace of container: {_restarting(ref)}")
    if not target.running:
        raise Conflict(
            "cannot join network namespace of a non running container: "
            f"container {target.record.name} is {target.status}"
        )


def _running(ref: str, find: Callable[[str], Target]) -> Target:
    target = find(ref)
    if target.restarting:
        raise Conflict(_restarting(ref))
    if not target.running:
        raise Conflict(f"container {ref} is not running")
    return target


def _restarting(ref: str) -> str:
    return f"Container {ref} is restarting, wait until the container is running"


def _has_shareable_ipc(record: ContainerRecord) -> bool:
    """Whether /dev/shm of the container is one that another container can have. A mount of the container's own is not (moby's ShmPath)."""
    host_config = record.host_config
    own = any(mount.destination == "/dev/shm" for mount in record.mounts) or "/dev/shm" in (host_config.tmpfs or {})
    mode = host_config.ipc_mode
    return mode == "host" or bool(target_of(mode)) or (mode == "shareable" and not own)


def different_machines(one: str, other: str) -> Conflict:
    """The error for a container that joins two containers whose machines differ."""
    return Conflict(
        f"container {one} and container {other} run in different machines: start both with the label {_MACHINE_LABEL}=NAME"
    )
