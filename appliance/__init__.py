"""The appliance: Docker's API in front, one virtual machine per container behind. README.md has the map of its rooms."""

__version__ = "0.1.0"
