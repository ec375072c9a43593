"""How an appliance becomes what its OVF properties say, at each of its boots: network, firewall, vchd's settings, console.

`properties.py` is the one list of them: the OVA's descriptor, `vch create` and the appliance itself have them from there. Nothing of
a running vchd is known here.
"""
