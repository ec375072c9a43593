"""The use cases of networks: endpoints, connections, published ports, names."""
