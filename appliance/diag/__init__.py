"""Looking at the running daemon: a dump of its tasks. Called by all rooms, knows none."""

from appliance.diag.dump import dump_tasks

__all__ = ["dump_tasks"]
