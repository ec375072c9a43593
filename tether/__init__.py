"""The guest's half of vch, and the pieces of the channel that both halves share.

`link`, `transport` and `rpc` are used by both ends; `agent`, `launch` and `system` run in the guest alone. Nothing here
imports `appliance`.
"""

__version__ = "0.1.0"
