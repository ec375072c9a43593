"""What the tether does for the appliance: one file per noun, each a service of `protos/tether/v1`.

`machine` owns the guest as a whole, `process` the table of processes, `stdio` their pipes and spools, `reaper` every wait.
"""
