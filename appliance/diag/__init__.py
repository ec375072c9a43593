"""Looks into the running daemon: its tasks, the timeline of a start, its log, failed tasks.

Every room may call this room; this room calls no other.
"""

from appliance.diag.dump import dump_tasks
from appliance.diag.trace import Trace, mark

__all__ = ["Trace", "dump_tasks", "mark"]
