"""What the tether does for the appliance: the services of `protos/tether/v1`, and what they need.

`machine` configures and ends the guest as a whole, `process_table` owns the processes, `stdio` their pipes and spools, `files`
the container's files, `network` the NICs, `stats` the metrics. `reaper` alone waits for child processes.
"""
