"""Where a start gets its VM, and what the guest receives.

`admission` limits how many starts run at the same time. `provisioner` finds a VM in the `pool`, or creates one. `boot` sizes the VM
and starts the container's process in it; `guest_config` describes mounts, network and files. `rehearsal` prepares VMs for the pool.
"""
