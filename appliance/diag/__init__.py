"""Looking at the running daemon: a dump of its tasks, the timeline of a start, its log, what failed by itself. Called by all rooms, knows none."""

from appliance.diag.dump import dump_tasks
from appliance.diag.trace import Trace, mark

__all__ = ["Trace", "dump_tasks", "mark"]
