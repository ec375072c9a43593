"""Virtual machines: the contract in `driver`, a driver per folder. No Docker noun gets in, no QEMU or vSphere noun gets out."""

from appliance.hypervisor.driver import (
    Adaptable,
    Card,
    Checkpointable,
    Cloning,
    Disk,
    DiskAddress,
    Driver,
    Machine,
    MachineSpec,
    Pluggable,
    Power,
    Usage,
)

__all__ = [
    "Adaptable",
    "Card",
    "Checkpointable",
    "Cloning",
    "Disk",
    "DiskAddress",
    "Driver",
    "Machine",
    "MachineSpec",
    "Pluggable",
    "Power",
    "Usage",
]
