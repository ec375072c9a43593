"""Containers without I/O: their lifecycle, their typed configuration, the OCI spec made from it, restart decisions.

`config.py`, `host_config.py`, `endpoint_settings.py` and `exec_config.py` are Docker's objects; `go_json.py` decodes them.
"""
