"""Looking at the running daemon: its tasks, the timeline of a start, its log, what failed by itself. All rooms call it, it knows none."""

from appliance.diag.dump import dump_tasks
from appliance.diag.trace import Trace, mark

__all__ = ["Trace", "dump_tasks", "mark"]
