"""A client of OCI distribution registries (distribution-spec 1.1): authentication, manifests, blobs. Knows no image store."""

from appliance.registry.auth import Credentials
from appliance.registry.client import Manifest, Registry
from appliance.registry.proxies import Proxies, Ways
from appliance.registry.wire import ComeBackLater, read_at_most, words_of

__all__ = ["ComeBackLater", "Credentials", "Manifest", "Proxies", "Registry", "Ways", "read_at_most", "words_of"]
