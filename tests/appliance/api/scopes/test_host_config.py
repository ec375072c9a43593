"""Which options of a create request a client with a scope may use."""

from typing import Any

import msgspec
import pytest

from appliance.api.fields import HOST
from appliance.api.scopes.host_config import check_host_config, check_volume_options
from appliance.container.host_config import HostConfig
from appliance.container.mounts import MountRecord
from appliance.errors import Forbidden

_BIND = {"Type": "bind", "Source": "/etc", "Target": "/x"}
_NFS = {"Name": "local", "Options": {"type": "nfs", "o": "addr=192.0.2.1", "device": ":/x"}}


# Every field that `check_host_config` does not look at. A new field of HostConfig belongs here only if it cannot reach beyond the VM.
_HARMLESS = """
    AutoRemove ContainerIDFile PortBindings PublishAllPorts RestartPolicy ConsoleSize Annotations VolumeDriver VolumesFrom Links Tmpfs Init
    CapDrop Dns DnsOptions DnsSearch ExtraHosts GroupAdd ReadonlyRootfs ShmSize Runtime Sysctls Ulimits
    CpuShares Memory NanoCpus BlkioWeight BlkioWeightDevice BlkioDeviceReadBps BlkioDeviceWriteBps BlkioDeviceReadIOps
    BlkioDeviceWriteIOps CpuPeriod CpuQuota CpuRealtimePeriod CpuRealtimeRuntime CpusetCpus CpusetMems MemoryReservation MemorySwap
    MemorySwappiness PidsLimit CpuCount CpuPercent IOMaximumIOps IOMaximumBandwidth KernelMemory KernelMemoryTCP
    Cgroup Isolation Capabilities StorageOpt
"""
_CHECKED = """
    Binds Mounts NetworkMode PidMode IpcMode UTSMode UsernsMode CgroupnsMode CapAdd Devices DeviceRequests DeviceCgroupRules CgroupParent
    OomScoreAdj OomKillDisable MaskedPaths ReadonlyPaths SecurityOpt LogConfig Privileged
"""


def test_every_field_is_decided() -> None:
    """Fails for a new field: decide whether a client with a scope may use it."""
    assert {field.name for field in HOST.values()} <= {*_HARMLESS.split(), *_CHECKED.split()}


def _leads_nowhere(mount: MountRecord) -> bool:
    return False


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"Privileged": True}, "Privileged"),
        ({"CapAdd": ["NET_RAW"]}, "CapAdd"),
        ({"Devices": [{"PathOnHost": "/dev/kvm"}]}, "Devices"),
        ({"DeviceRequests": [{"Count": -1}]}, "DeviceRequests"),
        ({"DeviceCgroupRules": ["a *:* rwm"]}, "DeviceCgroupRules"),
        ({"CgroupParent": "/x"}, "CgroupParent"),
        ({"OomScoreAdj": -1}, "OomScoreAdj"),
        ({"OomKillDisable": True}, "OomKillDisable"),
        ({"MaskedPaths": []}, "MaskedPaths"),
        ({"ReadonlyPaths": []}, "ReadonlyPaths"),
        ({"NetworkMode": "host"}, "NetworkMode host"),
        ({"PidMode": "host"}, "PidMode host"),
        ({"IpcMode": "host"}, "IpcMode host"),
        ({"UTSMode": "host"}, "UTSMode host"),
        ({"UsernsMode": "host"}, "UsernsMode host"),
        ({"CgroupnsMode": "host"}, "CgroupnsMode host"),
        ({"SecurityOpt": ["seccomp=unconfined"]}, "SecurityOpt seccomp"),
        ({"SecurityOpt": ["no-new-privileges", 'seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']}, "SecurityOpt seccomp"),
        ({"SecurityOpt": ["apparmor:unconfined"]}, "SecurityOpt apparmor:unconfined"),
        ({"SecurityOpt": ["systempaths=unconfined"]}, "SecurityOpt systempaths"),
        ({"LogConfig": {"Type": "syslog"}}, "log driver syslog"),
        ({"Binds": ["data:/y", "/etc:/x:ro"]}, "bind mount of /etc"),
        ({"Binds": ["/var/run/docker.sock:/var/run/docker.sock"]}, "bind mount of /var/run/docker.sock"),
        ({"Mounts": [_BIND]}, "bind mount of /etc"),
        (
            {"Mounts": [{"Type": "volume", "Target": "/x", "VolumeOptions": {"DriverConfig": _NFS}}]},
            "volume option device",
        ),
    ],
)
def test_what_reaches_beyond_the_vm_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(Forbidden, match=f"^authorization denied: a scoped client may not .*{named}"):
        check_host_config(msgspec.convert(given, HostConfig), _leads_nowhere)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"Binds": ["data:/x", "/anonymous"], "Mounts": [{"Type": "tmpfs", "Target": "/t"}]},
        {
            "Memory": 64 << 20,
            "NanoCpus": 10**9,
            "PidsLimit": 10,
            "OomScoreAdj": 500,
            "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        },
        {
            "CapDrop": ["ALL"],
            "ReadonlyRootfs": True,
            "SecurityOpt": ["no-new-privileges:true", "seccomp=builtin", "label=disable"],
        },
        {"NetworkMode": "none", "PidMode": "", "IpcMode": "private", "CgroupnsMode": "private"},
        {"PortBindings": {"80/tcp": [{"HostPort": "8080"}]}, "RestartPolicy": {"Name": "always"}, "Init": True},
        {"LogConfig": {"Type": "local", "Config": {"max-size": "1m"}}, "Sysctls": {"net.core.somaxconn": "10"}},
    ],
)
def test_what_stays_in_the_vm_is_allowed(given: dict[str, Any]) -> None:
    check_host_config(msgspec.convert(given, HostConfig), _leads_nowhere)


def test_the_api_may_be_mounted() -> None:
    mounts = {"Binds": ["/var/run/docker.sock:/var/run/docker.sock", "/etc:/x"]}
    with pytest.raises(Forbidden, match="bind mount of /etc"):
        check_host_config(msgspec.convert(mounts, HostConfig), lambda mount: mount.source == "/var/run/docker.sock")


def test_volumes() -> None:
    for options in ({}, {"size": "1g"}, {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}, {"VolumeStore": "fast"}):
        check_volume_options(options)
    for options in ({"device": "/etc", "o": "bind"}, {"device": "/etc", "type": "none", "o": "bind"}):
        with pytest.raises(Forbidden, match="volume option device"):
            check_volume_options(options)
