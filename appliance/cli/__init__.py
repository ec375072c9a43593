"""`vch`, the operators' command."""
