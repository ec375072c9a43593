"""`vch`, the command with which operators deploy and manage appliances on vSphere. Not to be confused with the Docker CLI."""
