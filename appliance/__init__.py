"""The appliance: Docker's API in front, one virtual machine per container behind. README.md describes its rooms (packages)."""

__version__ = "0.1.0"
