"""Requests for vchd and a real dockerd, the answers of both, and why some of them differ."""
