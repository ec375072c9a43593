"""Our side of a tether: the session of one guest, what its processes read and write. Knows machines, not containers."""

from appliance.guest.fanout import Attachment, Fanout
from appliance.guest.session import GuestFailure, GuestSession, Launched, StartRefused
from appliance.guest.stdin import StdinPipe

__all__ = ["Attachment", "Fanout", "GuestFailure", "GuestSession", "Launched", "StartRefused", "StdinPipe"]
