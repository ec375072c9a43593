"""Our side of a tether: the session of one guest, what its processes read and write. Knows machines, not containers."""

from appliance.guest.failures import GuestFailure, StartRefused
from appliance.guest.fanout import Attachment, Fanout
from appliance.guest.files import Change, GuestFiles, PathStat
from appliance.guest.reports import (
    BootStep,
    ExitStatus,
    FailureKind,
    Lease,
    Listener,
    Metrics,
    Output,
    OutputRecord,
    Phase,
    ProcessState,
    StartedProcess,
    StartFailure,
)
from appliance.guest.session import GuestSession, Launched, exit_code
from appliance.guest.setup import (
    DiskMount,
    GuestMount,
    GuestSetup,
    GuestVolume,
    Interface,
    NetworkConfig,
    OverlayMount,
    PlainMount,
    ProcessSetup,
    Resumption,
    ShareMount,
    StateFile,
)
from appliance.guest.stdin import StdinPipe

__all__ = [
    "Attachment",
    "BootStep",
    "Change",
    "DiskMount",
    "ExitStatus",
    "FailureKind",
    "Fanout",
    "GuestFailure",
    "GuestFiles",
    "GuestMount",
    "GuestSession",
    "GuestSetup",
    "GuestVolume",
    "Interface",
    "Launched",
    "Lease",
    "Listener",
    "Metrics",
    "NetworkConfig",
    "Output",
    "OutputRecord",
    "OverlayMount",
    "PathStat",
    "Phase",
    "PlainMount",
    "ProcessSetup",
    "ProcessState",
    "Resumption",
    "ShareMount",
    "StartFailure",
    "StartRefused",
    "StartedProcess",
    "StateFile",
    "StdinPipe",
    "exit_code",
]
