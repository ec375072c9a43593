"""The use cases of networks: endpoints, connections, published ports, names.

`networks` holds the networks, `endpoints` gives containers their addresses, `connections` is `docker network connect`.
`published_ports` forwards ports of `-p`; `host_ports` publishes what a container with `--network host` listens on.
"""
