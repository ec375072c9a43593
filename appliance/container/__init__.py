"""What a container is, without I/O: its lifecycle, its names, the OCI spec made from its configuration."""
