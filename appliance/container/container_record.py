"""The part of a container that is stored on disk."""

import re
from collections.abc import Collection
from typing import Protocol, TypeVar

import msgspec

from appliance.container.config import ContainerConfig
from appliance.container.endpoint_settings import EndpointSettings
from appliance.container.host_config import HostConfig
from appliance.container.lifecycle import Created, Exited, Running, State
from appliance.container.mounts import MountRecord
from appliance.errors import InvalidParameter, NotFound

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
# A full or a short ID.
LIKE_AN_ID = re.compile(r"[a-f0-9]{12,64}")
_PREFIX = re.compile(r"[a-f0-9]{1,64}")


class Binding(msgspec.Struct, frozen=True):
    """A published port. `host_ip` is 0.0.0.0 or :: for all addresses of the host."""

    protocol: str
    port: int
    host_ip: str
    host_port: int

    @property
    def exposed(self) -> str:
        return f"{self.port}/{self.protocol}"


class Attachment(msgspec.Struct):
    """A container on the network of this name: the settings that its client `wanted`, and the endpoint of the present run.

    `network_id` tells networks of the same name apart. It is empty until a network of that name exists.
    """

    network: str
    wanted: EndpointSettings = msgspec.field(default_factory=EndpointSettings)
    network_id: str = ""
    endpoint: str = ""
    interface: str = ""
    mac: str = ""
    address: str = ""
    address6: str = ""

    def clear(self) -> None:
        """Forget the endpoint: the run has ended."""
        self.endpoint = self.interface = self.mac = self.address = self.address6 = ""


class SeatRecord(msgspec.Struct, frozen=True):
    """The place of a container in the machine `machine`, whose id is that of the container that the machine was made for (`first`).

    `number` is unique among the containers of the machine.
    """

    machine: str
    number: int = 0
    first: bool = True


class ContainerRecord(msgspec.Struct):
    """A stored container. Times are unix ns; `state` is created, running or exited.

    The first log entry of the present run has the number `run_first_entry`; its output begins at the guest's offset `run_offset`.
    `owner` is the scope of the principal that made the container, "" for a principal that sees all objects. `socket_role` is the role of
    the API socket in the container, "" in a container of an earlier version. Containers of one owner with the same `machine_name` share
    a machine. A machine that is made for the container has at least `machine_memory` bytes. `seat` is None when no machine has the
    container's disks, and in a container of an earlier version. `role`: see daemon_objects.py.
    """

    id: str
    name: str
    created: int
    image_id: str
    image: str
    config: ContainerConfig
    host_config: HostConfig = msgspec.field(name="host")
    state: str = "created"
    started: int = 0
    finished: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    error: str = ""
    attachments: list[Attachment] = []
    bindings: list[Binding] = []
    mounts: list[MountRecord] = []
    run_first_entry: int = 0
    run_offset: int = 0
    restarts: int = 0
    stopped_by_user: bool = False
    owner: str = ""
    socket_role: str = ""
    machine_name: str = ""
    machine_memory: int = 0
    role: str = ""
    seat: SeatRecord | None = None

    @property
    def log_driver(self) -> str:
        return self.host_config.log_config.type or "json-file"

    @property
    def log_options(self) -> dict[str, str]:
        return self.host_config.log_config.config


def state_of(record: ContainerRecord) -> State:
    """The state of a stored container whose VM is gone."""
    match record.state:
        case "exited":
            return Exited(record.started, record.finished, record.exit_code, record.oom_killed, record.error)
        case "running":
            return Running(record.started, 0)
        case _:
            return Created(record.error, record.exit_code)


class Recorded(Protocol):
    """What has a record: a container of the engine, or of the API."""

    @property
    def record(self) -> ContainerRecord: ...


C = TypeVar("C", bound=Recorded)


def find_container(containers: Collection[C], ref: str) -> C:
    """The container that a client means: by full id, exact name, or id prefix.

    NotFound, or InvalidParameter if several containers have the prefix.
    """
    name = ref.removeprefix("/")
    found = [one for one in containers if one.record.id == ref]
    found = found or [one for one in containers if one.record.name == name]
    if not found and _PREFIX.fullmatch(ref):
        found = [one for one in containers if one.record.id.startswith(ref)]
    if len(found) > 1:
        raise InvalidParameter(f"Multiple IDs found with provided prefix: {ref}")
    if not found:
        raise NotFound(f"No such container: {ref}")
    return found[0]
