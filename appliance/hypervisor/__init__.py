"""Virtual machines: the contract in `driver`, a driver per folder. No Docker noun gets in, no QEMU or vSphere noun gets out."""

from appliance.hypervisor.driver import (
    NO_BRIDGE,
    SHARE_TAG,
    Adaptable,
    Card,
    Checkpointable,
    Cloning,
    Disk,
    DiskAddress,
    Driver,
    Forward,
    Machine,
    MachineSpec,
    Pluggable,
    Power,
    Share,
    Usage,
)

__all__ = [
    "NO_BRIDGE",
    "SHARE_TAG",
    "Adaptable",
    "Card",
    "Checkpointable",
    "Cloning",
    "Disk",
    "DiskAddress",
    "Driver",
    "Forward",
    "Machine",
    "MachineSpec",
    "Pluggable",
    "Power",
    "Share",
    "Usage",
]
