"""From an OCI runtime spec to a running process: namespaces, mounts, cgroup, users, capabilities, limits, exec.

`oci` defines the spec for both ends; the appliance imports that module alone. `launcher` forks. What the child does between
fork and exec (`rootfs`, `credentials`, `seccomp`) runs in a copy of the tether and must not use trio. crun is the oracle: the
same spec through crun and through this package gives the same process.
"""
