"""Networks of containers: who has which address. The default one is user-mode: NAT to the outside, no way in."""

from appliance.network.addresses import DefaultNetwork, Endpoint

__all__ = ["DefaultNetwork", "Endpoint"]
