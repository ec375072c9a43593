"""Streams of bytes: Docker's multiplexed frames, detach keys, compression, and the log file. Nothing here knows containers."""
