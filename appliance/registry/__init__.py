"""A client of OCI distribution registries (distribution-spec 1.1): authentication, manifests, blobs. It does not know the image store."""

from appliance.registry.auth import Credentials
from appliance.registry.client import Manifest, Registry, SearchResult
from appliance.registry.download import download
from appliance.registry.proxies import Proxies
from appliance.registry.wire import ComeBackLater, read_at_most

__all__ = [
    "ComeBackLater",
    "Credentials",
    "Manifest",
    "Proxies",
    "Registry",
    "SearchResult",
    "download",
    "read_at_most",
]
