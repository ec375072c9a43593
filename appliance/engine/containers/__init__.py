"""The use cases of containers: create, start, stop, attach, exec, copy, commit."""
