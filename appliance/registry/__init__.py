"""A client of OCI distribution registries (distribution-spec 1.1): authentication, manifests, blobs. Knows no image store."""

from appliance.registry.client import ComeBackLater, Credentials, Manifest, Registry
from appliance.registry.wire import read_at_most

__all__ = ["ComeBackLater", "Credentials", "Manifest", "Registry", "read_at_most"]
