"""The daemon's end of the channel to a tether: `session` calls one guest. It knows machines, not containers.

`setup` holds what a guest receives and `reports` what it returns, as plain values; `encode` and `decode` map them to protobuf.
`fanout` and `stdin` connect attached clients to a process, `fast_path` is the second, faster line to guests with a slow serial port.
"""

from appliance.guest.containers import GuestContainers
from appliance.guest.failures import GuestFailure, StartRefused
from appliance.guest.fanout import Attachment, Fanout
from appliance.guest.files import Change, GuestFiles, PathStat
from appliance.guest.launched import Launched
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
from appliance.guest.session import GuestSession, exit_code
from appliance.guest.setup import (
    DiskMount,
    GuestAddition,
    GuestMount,
    GuestSetup,
    GuestSocket,
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
from appliance.guest.tunnel import Accepted, ContainerTcp, ContainerUnix, GuestTunnel

__all__ = [
    "Accepted",
    "Attachment",
    "BootStep",
    "Change",
    "ContainerTcp",
    "ContainerUnix",
    "DiskMount",
    "ExitStatus",
    "FailureKind",
    "Fanout",
    "GuestAddition",
    "GuestContainers",
    "GuestFailure",
    "GuestFiles",
    "GuestMount",
    "GuestSession",
    "GuestSetup",
    "GuestSocket",
    "GuestTunnel",
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
