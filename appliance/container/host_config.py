"""Docker's HostConfig: what a container gets of its host, as `POST /containers/create` (API 1.22 to 1.51) has it.

An absent member of an optional field is UNSET and stays out of `docker inspect`; null and empty are shown as they were given.

A new field is added here, with its decision, and read where it has its effect, mostly in `spec.py`. The checks of a request, FIELDS.md,
the defaults of `docker inspect` and `docker update` follow from the declaration. `appliance/api/README.md` lists all steps.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from appliance.container.fields import Int64, Update, go_names, honoured, refused, warned

_WINDOWS = "for Windows only"
_NO_LONGER = "Docker has removed it"
_OWN_DISKS = "each VM has its own disks"
_NO_REALTIME = "the guest kernel does not support it"
_JOINS = "container:ID puts the container into the machine of that container"
_Unread = list[Any]
"""A list that vchd does not read: its field is warned of or refused."""


class RestartPolicy(msgspec.Struct, rename="pascal", frozen=True):
    """`name` is no, always, unless-stopped, on-failure, or empty for no. `maximum_retry_count` limits on-failure; 0 means no limit."""

    name: str = ""
    maximum_retry_count: Int64 = 0


class LogConfig(msgspec.Struct, rename="pascal", frozen=True):
    """`type` is a log driver, empty for json-file; `config` holds its options."""

    type: str = ""
    config: dict[str, str] = {}


class PortBinding(msgspec.Struct, rename="pascal", frozen=True):
    """An address and a port, or a range of ports, of the host; empty for any."""

    host_ip: str = ""
    host_port: str = ""


PortBindings = dict[str, list[PortBinding] | None]
"""{"80/tcp": [...]}; no list and an empty list mean any port of the host."""


class DeviceMapping(msgspec.Struct, rename="pascal", frozen=True):
    path_on_host: str = ""
    path_in_container: str = ""
    cgroup_permissions: str = ""


class DeviceRequest(msgspec.Struct, rename=go_names(device_ids="DeviceIDs"), frozen=True):
    """Devices of a device driver, such as those of `--gpus` and CDI names. `capabilities` are alternatives, each a list of words."""

    driver: str = ""
    count: Int64 = 0
    device_ids: list[str] | None = None
    capabilities: list[list[str]] | None = None
    options: dict[str, str] | None = None


class Ulimit(msgspec.Struct, rename="pascal", frozen=True):
    """`hard` -1: unlimited."""

    name: str = ""
    hard: Int64 = 0
    soft: Int64 = 0


class BindOptions(msgspec.Struct, rename="pascal", frozen=True):
    propagation: str | UnsetType = UNSET
    non_recursive: bool | UnsetType = UNSET
    create_mountpoint: bool | UnsetType = UNSET
    read_only_non_recursive: bool | UnsetType = UNSET
    read_only_force_recursive: bool | UnsetType = UNSET


class VolumeDriverConfig(msgspec.Struct, rename="pascal", frozen=True):
    name: str | UnsetType = UNSET
    options: dict[str, str] | UnsetType | None = UNSET


class VolumeOptions(msgspec.Struct, rename="pascal", frozen=True):
    no_copy: bool | UnsetType = UNSET
    labels: dict[str, str] | UnsetType | None = UNSET
    driver_config: VolumeDriverConfig | UnsetType | None = UNSET
    subpath: str | UnsetType = UNSET


class TmpfsOptions(msgspec.Struct, rename="pascal", frozen=True):
    """`mode` is a number as of stat(2); `options` are [name] or [name, value]."""

    size_bytes: Int64 | UnsetType = UNSET
    mode: Int64 | UnsetType = UNSET
    options: list[list[str]] | UnsetType | None = UNSET


class Mount(msgspec.Struct, rename="pascal", frozen=True, kw_only=True):
    """An element of Mounts. `type` is bind, volume or tmpfs; the options are those of that type."""

    type: str | UnsetType = UNSET
    source: str | UnsetType = UNSET
    target: str | UnsetType = UNSET
    read_only: bool | UnsetType = UNSET
    consistency: str | UnsetType = UNSET
    bind_options: BindOptions | UnsetType | None = UNSET
    volume_options: VolumeOptions | UnsetType | None = UNSET
    tmpfs_options: TmpfsOptions | UnsetType | None = UNSET


class HostConfig(
    msgspec.Struct,
    kw_only=True,
    omit_defaults=True,
    rename=go_names(
        container_id_file="ContainerIDFile",
        uts_mode="UTSMode",
        blkio_device_read_iops="BlkioDeviceReadIOps",
        blkio_device_write_iops="BlkioDeviceWriteIOps",
        kernel_memory_tcp="KernelMemoryTCP",
        io_maximum_iops="IOMaximumIOps",
        io_maximum_bandwidth="IOMaximumBandwidth",
    ),
):
    """Fields in the order in which `docker inspect` shows them. `network_mode` None: not given, which is the default network."""

    binds: Annotated[
        list[str] | None,
        honoured("volumes and unix sockets of the host; with QEMU also its files and directories, but not its devices"),
    ] = None
    container_id_file: Annotated[str, honoured("only the client uses it")] = ""
    network_mode: Annotated[
        str | None,
        honoured(
            f"a network's name or id, or none; host is bridge with every listening port published; {_JOINS}",
            shown="bridge",
        ),
    ] = None
    port_bindings: Annotated[PortBindings | None, honoured("tcp and udp, port ranges, addresses of the host")] = None
    auto_remove: Annotated[bool, honoured()] = False
    volume_driver: Annotated[str, honoured("only the driver `local` exists")] = ""
    volumes_from: Annotated[list[str] | None, honoured()] = None
    cap_add: Annotated[list[str] | None, honoured()] = None
    cap_drop: Annotated[list[str] | None, honoured()] = None
    cgroupns_mode: Annotated[str, honoured("private; host means the guest's", shown="private")] = ""
    dns: Annotated[list[str] | None, honoured()] = None
    dns_options: Annotated[list[str] | None, honoured()] = None
    dns_search: Annotated[list[str] | None, honoured()] = None
    extra_hosts: Annotated[list[str] | None, honoured("host-gateway is the address of the appliance")] = None
    group_add: Annotated[list[str] | None, honoured("names or numbers; looked up in the container")] = None
    ipc_mode: Annotated[
        str, honoured(f"private, shareable, none; host means the guest's; {_JOINS}", shown="private")
    ] = ""
    cgroup: Annotated[str, refused(_NO_LONGER)] = ""
    links: Annotated[
        list[str] | None, honoured("names and environment variables on the default network, aliases on other networks")
    ] = None
    oom_score_adj: Annotated[Int64, honoured()] = 0
    pid_mode: Annotated[str, honoured(f"host means the guest's; {_JOINS}")] = ""
    privileged: Annotated[bool, honoured("everything in the guest, which is the container's own VM")] = False
    publish_all_ports: Annotated[bool, honoured()] = False
    readonly_rootfs: Annotated[bool, honoured()] = False
    security_opt: Annotated[
        list[str] | None,
        honoured("no-new-privileges, seccomp (unconfined or a profile); apparmor and label can only be switched off"),
    ] = None
    uts_mode: Annotated[str, honoured("host means the guest's")] = ""
    userns_mode: Annotated[str, honoured("only host")] = ""
    shm_size: Annotated[Int64, honoured(shown=64 << 20)] = 0
    runtime: Annotated[str, honoured("runc, io.containerd.runc.v2 and vch name the same runtime", shown="vch")] = ""
    console_size: Annotated[list[Int64] | UnsetType | None, honoured(shown=[0, 0])] = UNSET
    isolation: Annotated[str, refused(_WINDOWS, "default")] = ""
    cpu_shares: Annotated[Int64, honoured(update=Update.LIMIT)] = 0
    memory: Annotated[Int64, honoured("the limit of the cgroup; the VM is made large enough", update=Update.LIMIT)] = 0
    nano_cpus: Annotated[Int64, honoured("the VM gets enough CPUs", update=Update.LIMIT)] = 0
    cgroup_parent: Annotated[str, warned("each VM has its own cgroup hierarchy")] = ""
    blkio_weight: Annotated[Int64, warned("the guest kernel has no block I/O weights")] = 0
    blkio_weight_device: Annotated[_Unread | None, warned(_OWN_DISKS)] = None
    blkio_device_read_bps: Annotated[_Unread | None, warned(_OWN_DISKS)] = None
    blkio_device_write_bps: Annotated[_Unread | None, warned(_OWN_DISKS)] = None
    blkio_device_read_iops: Annotated[_Unread | None, warned(_OWN_DISKS)] = None
    blkio_device_write_iops: Annotated[_Unread | None, warned(_OWN_DISKS)] = None
    cpu_period: Annotated[Int64, honoured(update=Update.LIMIT)] = 0
    cpu_quota: Annotated[Int64, honoured(update=Update.LIMIT)] = 0
    cpu_realtime_period: Annotated[Int64, refused(_NO_REALTIME)] = 0
    cpu_realtime_runtime: Annotated[Int64, refused(_NO_REALTIME)] = 0
    cpuset_cpus: Annotated[str, honoured("CPUs of the VM", update=Update.LIMIT)] = ""
    cpuset_mems: Annotated[str, honoured("memory nodes of the VM", update=Update.LIMIT)] = ""
    devices: Annotated[
        list[DeviceMapping] | None,
        honoured(
            "devices of the guest, by their path in the guest; vfio=ADDRESS is a PCI device of the host, as below"
        ),
    ] = None
    device_cgroup_rules: Annotated[list[str] | None, warned("a container may use all devices of its VM")] = None
    device_requests: Annotated[
        list[DeviceRequest] | None,
        honoured(
            "the CDI names vfio/pci=ADDRESS: PCI devices of the host (QEMU only); the error for `--gpus` and for other CDI names "
            "says what the hypervisor offers"
        ),
    ] = None
    memory_reservation: Annotated[Int64, honoured(update=Update.LIMIT)] = 0
    memory_swap: Annotated[Int64, honoured("the guest has no swap, so nothing is swapped", update=Update.LIMIT)] = 0
    memory_swappiness: Annotated[Int64 | None, warned("cgroup v2 does not support it", -1)] = None
    oom_kill_disable: Annotated[bool | None, warned("cgroup v2 does not support it")] = False
    pids_limit: Annotated[Int64 | None, honoured(update=Update.LIMIT)] = None
    ulimits: Annotated[list[Ulimit] | None, honoured()] = None
    cpu_count: Annotated[Int64, warned(_WINDOWS)] = 0
    cpu_percent: Annotated[Int64, warned(_WINDOWS)] = 0
    io_maximum_iops: Annotated[Int64, warned(_WINDOWS)] = 0
    io_maximum_bandwidth: Annotated[Int64, warned(_WINDOWS)] = 0
    log_config: Annotated[LogConfig, honoured("the drivers of appliance/logdrivers/README.md")] = LogConfig()
    restart_policy: Annotated[RestartPolicy, honoured(update=Update.YES)] = RestartPolicy()
    annotations: Annotated[dict[str, str] | UnsetType | None, honoured("metadata")] = UNSET
    capabilities: Annotated[list[str] | UnsetType | None, refused("Docker has replaced it by CapAdd and CapDrop")] = (
        UNSET
    )
    storage_opt: Annotated[dict[str, str] | UnsetType | None, refused("every container has a thin disk of 10 GiB")] = (
        UNSET
    )
    tmpfs: Annotated[dict[str, str] | UnsetType | None, honoured()] = UNSET
    sysctls: Annotated[dict[str, str] | UnsetType | None, honoured()] = UNSET
    kernel_memory: Annotated[Int64 | UnsetType | None, warned(_NO_LONGER)] = UNSET
    kernel_memory_tcp: Annotated[Int64 | UnsetType | None, warned(_NO_LONGER)] = UNSET
    mounts: Annotated[list[Mount] | UnsetType | None, honoured("of type bind, volume (with subpath), tmpfs")] = UNSET
    masked_paths: Annotated[list[str] | None, honoured()] = None
    readonly_paths: Annotated[list[str] | None, honoured()] = None
    init: Annotated[bool | UnsetType | None, honoured("tini")] = UNSET
