"""A client of OCI distribution registries (distribution-spec 1.1): authentication, manifests, blobs. Knows no image store."""

from appliance.registry.client import Credentials, Registry

__all__ = ["Credentials", "Registry"]
