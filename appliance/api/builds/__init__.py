"""The routes of builds: `/build`, its parameters and the lines of its answers."""
