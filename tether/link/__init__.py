"""Sessions on a byte line that loses, repeats and invents bytes, and whose ends reboot. Sans-io: no socket, clock or log."""

from tether.link.connection import Connection, Data, Event, Opened, Reset
from tether.link.frame import MAX_PAYLOAD, Frame, FrameReader, Kind

__all__ = ["MAX_PAYLOAD", "Connection", "Data", "Event", "Frame", "FrameReader", "Kind", "Opened", "Reset"]
