"""Bytes of containers, without I/O: Docker's multiplexed frames, detach keys, log records. Knows no container."""
