"""Our side of a tether: the session of one guest, what its processes read and write. Knows machines, not containers."""

from appliance.guest.fanout import Attachment, Fanout
from appliance.guest.files import Change, GuestFiles, PathStat
from appliance.guest.session import GuestFailure, GuestSession, Launched, StartRefused, exit_code
from appliance.guest.stdin import StdinPipe

__all__ = [
    "Attachment",
    "Change",
    "Fanout",
    "GuestFailure",
    "GuestFiles",
    "GuestSession",
    "Launched",
    "PathStat",
    "StartRefused",
    "StdinPipe",
    "exit_code",
]
