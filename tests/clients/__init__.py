"""Client tools against a vchd: each tool's own library, with a small driver in a folder of its own. `make test-clients` runs them.

`cache.py` copies a driver into the cache and builds it there, once for each state of its files; `tools.py` names the versions.
"""
