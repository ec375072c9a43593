"""Offers a fast path (TCP and TLS) to each guest whose own line is slow, while its container runs."""

from typing import TYPE_CHECKING

from appliance.engine.model.container import Container
from appliance.engine.model.run import Run
from appliance.network.network_record import ingress_endpoint

if TYPE_CHECKING:
    # Loaded only where guests have fast paths.
    from appliance.guest.fast_path import FastPaths


class FastPathWatcher:
    def __init__(self, fast_paths: "FastPaths") -> None:
        self._fast_paths = fast_paths

    async def watch(self, container: Container, run: Run) -> None:
        """Offer the guest a fast path until the run is over. It leads through a NIC of the machine's first container."""
        if run.network:
            return
        await run.accompany(self._fast_paths.keep, run.session, lambda: _own_address(container))


def _own_address(container: Container) -> str:
    """Our address on one of the container's networks, "" if we have none.

    We are the gateway of bridge networks, also of internal ones, but not of external networks.
    """
    endpoints = (
        ingress_endpoint(container.endpoints),
        *(endpoint for endpoint in container.endpoints if not endpoint.network.is_external),
    )
    return next((one.ipv4.gateway for one in endpoints if one is not None and one.ipv4 is not None), "")
