"""Builds what vch runs on: the guest image, and the appliance as an OVA. Nothing of it is installed."""
