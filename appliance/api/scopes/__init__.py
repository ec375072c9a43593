"""What a client with a scope sees: the backends of the API, reduced to the objects that were made in the scope.

A route of such a client is the same route over these backends, so that it cannot find what belongs to others: not by id, name or prefix,
not in a list, a filter, a prune or a reference from another object. `host_config.py` refuses the options that reach beyond the container's
own VM. Nothing here may know the engine.
"""
