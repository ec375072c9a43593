"""Configures the appliance at each boot from its OVF properties: network, firewall, vchd's configuration file, console (README.md)."""
