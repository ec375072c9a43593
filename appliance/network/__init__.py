"""The host's side of networks: addresses, bridges, firewall, published ports, DNS. README.md explains how they work together."""
