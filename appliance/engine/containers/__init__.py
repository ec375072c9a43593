"""The use cases of containers: create, start, stop, attach, exec, copy, commit.

`service` is what the API calls, `supervisor` follows each run from its start to its end, `run_resources` acquires what a run needs.
After a restart of the daemon, `recovery` decides what becomes of each container, and `resumption` takes over those that still run.
"""
