"""What the tether asks of the kernel: system calls that Python lacks, cgroup v2, netlink. Knows no gRPC and no OCI."""
