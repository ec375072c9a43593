"""What every room of the engine shares: a container in memory, its run, where changes are stored and announced."""
