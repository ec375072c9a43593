"""Docker's Config: what runs in a container, as `POST /containers/create` (API 1.22 to 1.51) and images' configs have it.

An absent member of an optional field is UNSET and stays out of `docker inspect`; null and empty are shown as they were given.
"""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from appliance.container.fields import Int64, go_names, honoured, warned

_WINDOWS = "for Windows only"
_NO_LONGER = "Docker has removed it"


class Empty(msgspec.Struct, frozen=True):
    """Go's struct{}: the values of ExposedPorts and Volumes."""


NameSet = dict[str, Empty | None]
"""{"80/tcp": {}}."""


class HealthConfig(msgspec.Struct, rename="pascal", kw_only=True):
    """Times in ns. `test` is ["CMD", word...], ["CMD-SHELL", line], ["NONE"], or empty for the image's."""

    test: list[str] | UnsetType | None = UNSET
    interval: Int64 | UnsetType | None = UNSET
    timeout: Int64 | UnsetType | None = UNSET
    start_period: Int64 | UnsetType | None = UNSET
    start_interval: Int64 | UnsetType | None = UNSET
    retries: Int64 | UnsetType | None = UNSET


class ContainerConfig(
    msgspec.Struct,
    kw_only=True,
    omit_defaults=True,
    rename=go_names(name="name"),
):
    """Fields in the order in which `docker inspect` shows them."""

    hostname: Annotated[str, honoured("also the hostname of the guest; at most 63 characters")] = ""
    domainname: Annotated[str, honoured()] = ""
    user: Annotated[str, honoured("name or uid, and group; looked up in the container")] = ""
    attach_stdin: Annotated[bool, honoured("only the client uses it")] = False
    attach_stdout: Annotated[bool, honoured("only the client uses it")] = False
    attach_stderr: Annotated[bool, honoured("only the client uses it")] = False
    tty: Annotated[bool, honoured()] = False
    open_stdin: Annotated[bool, honoured()] = False
    stdin_once: Annotated[bool, honoured()] = False
    env: Annotated[list[str] | None, honoured()] = None
    cmd: Annotated[list[str] | None, honoured(accepts_text=True)] = None
    image: Annotated[str, honoured()] = ""
    volumes: Annotated[NameSet | None, honoured("an anonymous volume for each path that has no mount")] = None
    working_dir: Annotated[str, honoured("created if it is missing")] = ""
    entrypoint: Annotated[list[str] | None, honoured(accepts_text=True)] = None
    on_build: Annotated[list[str] | None, honoured("metadata")] = None
    labels: Annotated[dict[str, str] | None, honoured(shown={})] = None
    exposed_ports: Annotated[NameSet | UnsetType | None, honoured("metadata")] = UNSET
    healthcheck: Annotated[HealthConfig | UnsetType | None, honoured("probes run as execs in the container")] = UNSET
    args_escaped: Annotated[bool | UnsetType | None, warned(_WINDOWS)] = UNSET
    network_disabled: Annotated[bool | UnsetType | None, honoured()] = UNSET
    mac_address: Annotated[str | UnsetType | None, honoured("of the NIC on the network of NetworkMode")] = UNSET
    stop_signal: Annotated[str | UnsetType | None, honoured()] = UNSET
    stop_timeout: Annotated[Int64 | UnsetType | None, honoured()] = UNSET
    shell: Annotated[list[str] | UnsetType | None, honoured("metadata; for CMD-SHELL probes")] = UNSET
    port_specs: Annotated[list[str] | UnsetType | None, warned(_NO_LONGER)] = UNSET
    publish_service: Annotated[str | UnsetType | None, warned(_NO_LONGER)] = UNSET
    volume_driver: Annotated[str | UnsetType | None, honoured("only the driver `local` exists")] = UNSET
    name: Annotated[str | UnsetType | None, honoured("ignored: the query parameter `name` is used")] = UNSET
